"""A loader process is killed in mid-epoch: training says so, keeps what it has, and the same command goes on."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_run import make_run

from segplan.jobs.prepare import fold_folder
from segplan.training import load_checkpoint

ROOT = Path(__file__).parents[2]


def command(config):
    return [sys.executable, "-m", "segplan.jobs.train", str(fold_folder(config) / "config.yaml")]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def loader_processes(pid):
    """Forked workers of a training that has begun."""
    try:
        children = psutil.Process(pid).children()
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the forked workers")
def test_training_ends_with_a_checkpoint_and_goes_on(tmp_path):
    overrides = ["data.num_workers=2", "data.start_method=fork", "trainer.max_epochs=1"]
    config = make_run(tmp_path, *overrides, "trainer.limit_train_batches=250", "trainer.limit_val_batches=1")
    folder = fold_folder(config)
    process = subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    deadline = time.monotonic() + 60
    while len(loader_processes(process.pid)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.7)  # some steps
    worker = loader_processes(process.pid)[0]
    os.kill(worker.pid, signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert process.returncode == 1, err
    assert f"(pid {worker.pid}) was killed (SIGKILL)" in err.decode()
    assert "Use data.num_workers=1 (now 2)." in err.decode()
    assert "Traceback" not in err.decode()
    assert "2 loader processes: asked for; fork, " in out.decode()
    done = load_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < done < 250

    again = subprocess.run(command(config), capture_output=True, env=environment(), timeout=200, check=False)
    assert again.returncode == 0, again.stderr
    assert load_checkpoint(folder / "checkpoints" / "final.ckpt")["global_step"] == 250
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["250"]
