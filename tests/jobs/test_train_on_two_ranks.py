"""The real training command with two processes of Lightning's, against the same with one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from jobs.tiny_run import make_run
from run_comparison import rows_of

from segplan.jobs.prepare import fold_folder
from segplan.training import load_checkpoint

# One whole case is validated: with two processes, the second has none and must not be waited for.
SETTINGS = (
    "trainer.precision=32",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=5",
    "data.batch_size=9",
    "validation.every_n_epochs=1",
    "validation.num_cases=1",
)


def weights_after_training(workspace: Path, devices: int) -> dict[str, torch.Tensor]:
    config = make_run(workspace, *SETTINGS, f"trainer.devices={devices}")
    file = fold_folder(config) / "config.yaml"
    command = [sys.executable, "-m", "segplan.jobs.train", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (fold_folder(config) / "validation" / "summary.json").is_file()
    weights: dict[str, torch.Tensor] = torch.load(file.parent / "checkpoints" / "final.ckpt", weights_only=True)
    return weights["state_dict"]


def test_two_processes_reach_the_weights_of_one_on_the_same_batches_of_nine(tmp_path):
    one, two = (weights_after_training(tmp_path / str(devices), devices) for devices in (1, 2))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5, msg=key)
    rows = [rows_of(next((tmp_path / devices).rglob("metrics.csv")).parent) for devices in "12"]
    assert float(rows[1][0]["true_dice"]) == pytest.approx(float(rows[0][0]["true_dice"]), abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_a_signal_to_one_of_two_processes_saves_both_in_mid_epoch_and_they_go_on_exactly(tmp_path):
    settings = (
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=30",
        "trainer.devices=2",
        "checkpoint.minutes=0.002",
    )
    finals = []
    for name in ("whole", "parted"):
        config = make_run(tmp_path, f"run={name}", *settings)
        folder = fold_folder(config)
        command = [sys.executable, "-m", "segplan.jobs.train", str(folder / "config.yaml")]
        if name == "parted":
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            last = folder / "checkpoints" / "last.ckpt"
            while process.poll() is None and not (last.exists() and load_checkpoint(last)["global_step"] > 2):
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=600)
            assert process.returncode == 128 + signal.SIGTERM, out + err
            assert 0 < load_checkpoint(last)["global_step"] < 60
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        finals.append((load_checkpoint(folder / "checkpoints" / "final.ckpt"), rows_of(folder)))
    (whole, rows), (parted, parted_rows) = finals
    assert parted_rows == rows
    assert all(torch.equal(whole["state_dict"][key], parted["state_dict"][key]) for key in whole["state_dict"])
