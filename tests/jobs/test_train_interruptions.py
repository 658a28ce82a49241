"""How a training ends on Ctrl-C, and what it needs of the disk before it begins."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from tiny_run import make_run

from segplan.imaging import TEMPORARY_PREFIX
from segplan.jobs import disk_space
from segplan.jobs.prepare import fold_folder
from segplan.jobs.train import main
from segplan.training import load_checkpoint
from segplan.training.adan import Adan
from segplan.training.callbacks import Checkpoints


class InterruptTwice(Checkpoints):
    """Acts as if Ctrl-C had come twice after the second step."""

    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        super().on_train_batch_end(trainer, *arguments)


def command_of(config):
    return [str(fold_folder(config) / "config.yaml")]


def test_a_second_ctrl_c_leaves_at_once_with_130_and_without_saving(tmp_path, monkeypatch, capsys):
    config = make_run(tmp_path)
    monkeypatch.setattr("segplan.jobs.training_parts.Checkpoints", InterruptTwice)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(command_of(config)) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list((fold_folder(config) / "checkpoints").glob("*.ckpt"))
    error = capsys.readouterr().err
    assert "SIGINT: saving after this step; once more leaves at once" in error
    assert "Traceback" not in error


class DropoutNet(torch.nn.Module):
    """What draws from torch's global generator in every step."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 3, 1)

    def forward(self, image):
        return torch.nn.functional.dropout(self.layer(image), 0.5, self.training)


def test_random_numbers_go_on_where_they_were(tmp_path, monkeypatch):
    settings = ("network._target_=jobs.test_train_interruptions.DropoutNet", "trainer.max_epochs=2")
    states = []
    for name in ("whole", "parted"):
        config = make_run(tmp_path, f"run={name}", *settings, "module.deep_supervision=false")
        config.network = {"_target_": "jobs.test_train_interruptions.DropoutNet"}
        if name == "parted":
            with monkeypatch.context() as patch:
                patch.setattr("segplan.jobs.training_parts.Checkpoints", StopAtSecond)
                assert main_with(config) == 128 + signal.SIGTERM
            torch.manual_seed(12345)
        assert main_with(config) == 0
        states.append(load_checkpoint(fold_folder(config) / "checkpoints" / "final.ckpt")["state_dict"])
    whole, parted = states
    assert all(torch.equal(whole[key], parted[key]) for key in whole)


class StopAtSecond(Checkpoints):
    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        super().on_train_batch_end(trainer, *arguments)


def main_with(config):
    from omegaconf import OmegaConf

    OmegaConf.save(config, fold_folder(config) / "config.yaml")
    return main(command_of(config))


def test_a_disk_without_room_for_the_checkpoints_is_said_before_training(tmp_path, monkeypatch, capsys):
    config = make_run(tmp_path)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert main(command_of(config)) == 2
    error = capsys.readouterr().err
    assert "its checkpoints need 0.00 GB, and 0.00 GB are free on the disk. Free some space" in error
    assert not (fold_folder(config) / "identity.json").exists()


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path, monkeypatch, capsys):
    config = make_run(tmp_path)

    def refuse(**_):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(disk_space.tempfile, "TemporaryFile", refuse)
    assert main(command_of(config)) == 2
    assert "checkpoints: Read-only file system. Choose a folder" in capsys.readouterr().err
    assert not (fold_folder(config) / "identity.json").exists()


@pytest.mark.parametrize(
    ("optimizer", "factor"),
    [
        (lambda params: torch.optim.SGD(params, 0.1, momentum=0.9), 3 * 2 + 3),
        (lambda params: torch.optim.AdamW(params, 0.1), 3 * 3 + 3),
        (lambda params: torch.optim.SGD(params, 0.1), 3 + 3),
        (Adan, 3 * 5 + 3),
    ],
)
def test_the_space_counts_what_the_optimiser_keeps(optimizer, factor):
    network = torch.nn.Linear(10, 10, bias=False)
    module = SimpleNamespace(
        state_dict=network.state_dict,
        parameters=network.parameters,
        configure_optimizers=lambda: optimizer(network.parameters()),
    )
    assert disk_space.space_needed(module) == 400 * factor
    module.average = object()  # the checkpoints hold an average of the weights too
    assert disk_space.space_needed(module) == 400 * (factor + 3)


def test_what_a_kill_left_half_written_is_removed_by_the_next_command(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1", "trainer.limit_train_batches=1", "data.patch_size=[8,8,8]")
    checkpoints = fold_folder(config) / "checkpoints"
    checkpoints.mkdir()
    half = checkpoints / f"{TEMPORARY_PREFIX}0.0.0-last.ckpt"
    half.write_bytes(b"half")
    os.utime(half, (0, 0))
    assert main(command_of(config)) == 0
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "final.ckpt", "last.ckpt"]


class StopInSecondEpoch(Checkpoints):
    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        super().on_train_batch_end(trainer, *arguments)


def test_a_stopped_training_is_validated_with_its_best_weights_and_goes_on(tmp_path, monkeypatch, capsys):
    config = make_run(tmp_path, "trainer.max_epochs=2", "trainer.limit_val_batches=20")
    folder = fold_folder(config)
    with monkeypatch.context() as patch:
        patch.setattr("segplan.jobs.training_parts.Checkpoints", StopInSecondEpoch)
        assert main_with(config) == 128 + signal.SIGUSR1
    config.mode = "validate"
    assert main_with(config) == 2
    assert "the training has left no final weights" in capsys.readouterr().err
    config.ckpt = "best"
    assert main_with(config) == 0
    assert (folder / "validation_best" / "summary.json").exists()
    assert not (folder / "validation").exists()
    config.mode, config.ckpt = "train", "final"
    assert main_with(config) == 0
    assert (folder / "validation" / "summary.json").exists()
    # The best weights may be others by now; their scores are due again.
    assert not (folder / "validation_best" / "summary.json").exists()
