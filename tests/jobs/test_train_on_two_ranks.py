"""The real training command with two processes of Lightning's, against the same with one."""

import subprocess
import sys
from pathlib import Path

import torch
from jobs.tiny_run import make_run

from segplan.jobs.prepare import fold_folder

SETTINGS = ("trainer.precision=32", "trainer.max_epochs=1", "trainer.limit_train_batches=5", "data.batch_size=9")


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
