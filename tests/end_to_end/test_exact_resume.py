"""A run that is killed at random moments ends like one that never was: the real command, augmentation and loaders."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_comparison import rows_of, same
from small_dataset import make_dataset

from segplan.training import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PLAN = "Dataset006_Kill/3d_fullres"
SETTINGS = (
    f"plan={PLAN}",
    "data.batch_size=2",
    "data.num_workers=2",
    "data.patch_size=[16,16,16]",
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=40",
    "trainer.limit_val_batches=2",
    "trainer.accelerator=cpu",
    "network.features=[4,8]",
    "network.strides=[[1,1,1],[2,2,2]]",
    "network.kernel_sizes=[[3,3,3],[3,3,3]]",
    "checkpoint.minutes=0.002",  # so that most of what a kill finds was saved in the middle of an epoch
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX's")]


def started(*words: str, cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "segplan.cli", *words]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def succeeds(*words: str, cwd: Path) -> None:
    process = started(*words, cwd=cwd)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, out + err


def signalled(number: int, *words: str, cwd: Path, after: int, folder: Path) -> tuple[int, str]:
    """Send `number` to the process group once a checkpoint has `after` steps; the exit code and what was printed."""
    process = started("train", *SETTINGS, *words, cwd=cwd)
    last = folder / "checkpoints" / "last.ckpt"
    while process.poll() is None and (not last.exists() or load_checkpoint(last)["global_step"] < after):
        time.sleep(0.02)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=600)
    return process.returncode, out + err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a planned dataset, and the folder of a run on it that nothing interrupted."""
    folder = tmp_path_factory.mktemp("kill")
    raw = make_dataset(folder / "Dataset006_Kill", cases=6, shape=(24, 26, 28))
    succeeds("plan", f"dataset={raw}", "configurations=[3d_fullres]", "num_workers=0", cwd=folder)
    runs = folder / "workspace" / "runs" / PLAN
    succeeds("train", *SETTINGS, "run=whole", cwd=folder)
    return folder, runs / "whole" / "fold_0"


def assert_equal_to(whole: Path, parted: Path) -> None:
    assert rows_of(parted) == rows_of(whole)
    for name in ("final", "best"):
        left, right = (load_checkpoint(folder / "checkpoints" / f"{name}.ckpt") for folder in (whole, parted))
        keys = ("state_dict", "optimizer_states", "epoch", "global_step", "segplan", "callbacks")
        for key in keys if name == "final" else ("state_dict", "global_step"):
            assert same(left[key], right[key]), (name, key)


def test_a_run_killed_three_times_at_random_moments_ends_like_one_that_was_not(whole):
    folder, uninterrupted = whole
    parted = uninterrupted.parents[1] / "killed" / "fold_0"
    moments = sorted(random.Random(3).sample(range(3, 105), 3))
    for moment in moments:
        code, _ = signalled(signal.SIGKILL, "run=killed", cwd=folder, after=moment, folder=parted)
        assert code == -signal.SIGKILL
        assert 0 < load_checkpoint(parted / "checkpoints" / "last.ckpt")["global_step"] < 120
    succeeds("train", *SETTINGS, "run=killed", cwd=folder)
    assert_equal_to(uninterrupted, parted)


def test_signals_save_and_leave_with_their_codes_and_the_same_command_goes_on(whole):
    folder, uninterrupted = whole
    parted = uninterrupted.parents[1] / "stopped" / "fold_0"
    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    for number, after in zip(signals, (10, 50, 90), strict=True):
        code, printed = signalled(number, "run=stopped", cwd=folder, after=after, folder=parted)
        assert code == 128 + number, printed
        assert f"stopped by {number.name}" in printed
        assert "the same command goes on" in printed
    succeeds("train", *SETTINGS, "run=stopped", cwd=folder)
    assert_equal_to(uninterrupted, parted)
