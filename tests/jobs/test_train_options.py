"""Options of a whole training: what happens without memory, with bad losses, out of time, and to what is measured."""

import json
import math
import signal

import pytest
import torch
from omegaconf import OmegaConf
from run_comparison import rows_of
from test_train import StopAt, same
from tiny_run import CONFIGS, make_run

from segplan.errors import ConfigError, RunError
from segplan.jobs.prepare import fold_folder
from segplan.jobs.train_fold import run
from segplan.model_folder import ModelFolder
from segplan.networks import PlainUNet
from segplan.training import SegmentationModule, load_checkpoint
from segplan.training.nonfinite import BATCH_FILE

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.precision=32", "data.patch_size=[8,8,8]")


def checkpoint_of(config, name="final"):
    return load_checkpoint(fold_folder(config) / "checkpoints" / f"{name}.ckpt")


def history_of(config):
    return [json.loads(line) for line in (fold_folder(config) / "history.jsonl").read_text().splitlines()]


def test_a_loss_that_is_no_number_stops_with_its_cases_and_keeps_its_batch(tmp_path, monkeypatch):
    guilty = {}
    step = SegmentationModule.training_step

    def spoilt(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if batch_idx == 1:
            guilty.update({key: value.clone() if key != "case" else list(value) for key, value in batch.items()})
            self._bad_step.note(loss.detach() * math.nan, batch_idx)
            return loss * math.nan
        return loss

    monkeypatch.setattr(SegmentationModule, "training_step", spoilt)
    config = make_run(tmp_path, *SHORT)
    with pytest.raises(RunError, match=r"became nan in epoch 1, batch 2 \(") as caught:
        run(config)
    assert all(case in str(caught.value) for case in guilty["case"])
    kept = torch.load(fold_folder(config) / BATCH_FILE, weights_only=True)
    assert kept["case"] == guilty["case"]
    assert torch.equal(kept["image"], guilty["image"])
    assert torch.equal(kept["labels"], guilty["labels"])
    assert not (fold_folder(config) / "checkpoints" / "last.ckpt").exists()


class SmallMemory:
    """A network whose activations do not fit for more than one sample."""

    def __init__(self, monkeypatch, largest):
        forward = PlainUNet.forward

        def limited(net, x):
            if torch.is_grad_enabled() and len(x) > largest:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return forward(net, x)

        monkeypatch.setattr(PlainUNet, "forward", limited)


def test_without_memory_training_ends_with_what_to_change(tmp_path, monkeypatch):
    SmallMemory(monkeypatch, largest=1)
    with pytest.raises(RunError, match=r"batch of 2 patches of 8×8×8 does not fit.*module.oom=shrink"):
        run(make_run(tmp_path, *SHORT))


def test_a_step_in_parts_reaches_the_weights_of_the_whole_one_and_is_remembered(tmp_path, monkeypatch):
    options = (*SHORT, "data.batch_size=3", "loss.batch_dice=true", "module.oom=shrink")
    whole, parted = make_run(tmp_path, "run=whole", *options), make_run(tmp_path, "run=parted", *options)
    assert run(whole) == 0
    SmallMemory(monkeypatch, largest=1)
    assert run(parted) == 0
    left, right = checkpoint_of(whole), checkpoint_of(parted)
    for key, value in left["state_dict"].items():
        torch.testing.assert_close(right["state_dict"][key], value, rtol=0, atol=1e-5)
    assert right["segplan"]["execution"]["parts"] == 3
    assert float(rows_of(fold_folder(parted))[0]["train_loss"]) == pytest.approx(
        float(rows_of(fold_folder(whole))[0]["train_loss"]), abs=1e-5
    )


def test_the_true_dice_of_the_last_epoch_is_that_of_the_final_validation(tmp_path, capsys):
    config = make_run(tmp_path, *SHORT, "trainer.max_epochs=2", "validation.every_n_epochs=2")
    assert run(config) == 0
    first, last = rows_of(fold_folder(config))
    assert math.isnan(float(first["true_dice"]))
    summary = json.loads((fold_folder(config) / "validation" / "summary.json").read_text())
    assert float(last["true_dice/bright"]) == pytest.approx(summary["mean"]["1"]["Dice"])
    assert float(last["true_dice/dark"]) == pytest.approx(summary["mean"]["2"]["Dice"])
    assert "full validation at epoch 2 (2 cases): bright" in capsys.readouterr().out
    assert checkpoint_of(config, "best")["global_step"] == 6
    assert checkpoint_of(config)["segplan"]["best_true_dice"] == pytest.approx(float(last["true_dice"]))


def test_with_every_option_on_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, monkeypatch, capsys):
    options = (
        "module.ema_decay=0.6",
        "module.memory_format=measure",
        "validation.every_n_epochs=1",
        "validation.num_cases=1",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=9",
        "callbacks.early_stopping.cooldown_epochs=2",
        "trainer.max_epochs=9",
        "trainer.limit_train_batches=3",
        "trainer.precision=32",
        "data.patch_size=[8,8,8]",
    )
    whole, parted = make_run(tmp_path, "run=whole", *options), make_run(tmp_path, "run=parted", *options)
    monkeypatch.setattr("segplan.training.execution.Probe.fastest_format", lambda self: ("contiguous", "in a test"))
    assert run(whole) == 0
    monkeypatch.setattr("segplan.training.execution.Probe.fastest_format", None)  # what was chosen is not asked again
    for steps in (4, 6):  # in the epoch after progress was last made, and at its end
        monkeypatch.setattr(StopAt, "steps", steps)
        with monkeypatch.context() as patch:
            patch.setattr("segplan.jobs.training_parts.Checkpoints", StopAt)
            if steps == 4:
                patch.setattr("segplan.training.execution.Probe.fastest_format", lambda self: ("contiguous", "again"))
            assert run(parted) == 128 + signal.SIGTERM
    assert run(parted) == 0
    assert rows_of(fold_folder(parted)) == rows_of(fold_folder(whole))
    left, right = checkpoint_of(whole), checkpoint_of(parted)
    for key in ("state_dict", "optimizer_states", "epoch", "global_step", "segplan"):
        assert same(left[key], right[key]), key
    assert len(rows_of(fold_folder(whole))) == 4
    rates = [float(row["lr"]) for row in rows_of(fold_folder(whole))]
    # The rate runs out over the two epochs after the first one without progress.
    assert rates[3] / rates[2] == pytest.approx(0.5 * (6 / 9) ** 0.9 / (7 / 9) ** 0.9)
    assert "no progress" in left["segplan"]["ended_because"]
    assert left["segplan"]["average"]["steps"] == 12
    own = left["segplan"]["average"]["own"]
    assert any(not torch.equal(own[key], left["state_dict"][f"network.{key}"]) for key in own)
    parted.trainer.max_epochs = 12
    assert run(parted) == 0
    assert "the training has ended: score has made no progress" in capsys.readouterr().out


def test_out_of_time_a_run_is_saved_and_the_same_command_goes_on(tmp_path, capsys):
    config = make_run(tmp_path, *SHORT)
    config.trainer.max_time = {"seconds": 1e-6}
    assert run(config) == 1
    assert "stopped by trainer.max_time at epoch 1, step 1; saved: the same command goes on" in capsys.readouterr().out
    assert not (fold_folder(config) / "weights.safetensors").exists()
    config.trainer.max_time = "00:01:00:00"
    assert run(config) == 0
    assert checkpoint_of(config)["global_step"] == 3
    assert [entry["event"] for entry in history_of(config)] == ["begins", "stops", "goes_on", "ends"]
    assert {entry["epoch"] for entry in history_of(config)} == {1}


def test_weights_laid_out_otherwise_are_written_plainly_and_a_column_may_come_later(tmp_path):
    config = make_run(tmp_path, *SHORT, "module.memory_format=channels_last")
    assert run(config) == 0
    weights = ModelFolder.open(fold_folder(config).parent).read_weights(0)
    assert all(value.is_contiguous() for value in weights.values())
    assert checkpoint_of(config)["segplan"]["execution"]["memory_format"] == "channels_last"
    config.trainer.max_epochs, config.validation.every_n_epochs = 2, 1
    assert run(config) == 0
    first, second = rows_of(fold_folder(config))
    assert math.isnan(float(first["true_dice"]))
    assert 0 <= float(second["true_dice"]) <= 1
    assert float(first["train_loss"]) != float(second["train_loss"])


def test_another_number_of_epochs_is_said_and_recorded(tmp_path, capsys):
    config = make_run(tmp_path, *SHORT)
    assert run(config) == 0
    config.trainer.max_epochs = 2
    assert run(config) == 0
    assert "trainer.max_epochs 1 → 2: the schedule goes on from epoch 2 of 2" in capsys.readouterr().out
    changed = next(entry for entry in history_of(config) if entry["event"] == "max_epochs")
    assert (changed["before"], changed["now"], changed["epoch"]) == (1, 2, 2)


def test_what_was_measured_stays_in_metrics_csv_where_it_is_switched_off_later(tmp_path):
    config = make_run(tmp_path, *SHORT, "validation.every_n_epochs=1")
    assert run(config) == 0
    config.trainer.max_epochs, config.validation.every_n_epochs = 2, None
    assert run(config) == 0
    first, second = rows_of(fold_folder(config))
    assert 0 <= float(first["true_dice"]) <= 1
    assert math.isnan(float(second["true_dice"]))
    assert float(second["train_loss"]) != float(first["train_loss"])


def test_a_memory_format_that_is_asked_for_holds_for_a_run_that_goes_on(tmp_path, caplog):
    config = make_run(tmp_path, *SHORT)
    assert run(config) == 0
    config.trainer.max_epochs, config.module.memory_format = 2, "channels_last"
    assert run(config) == 0
    assert checkpoint_of(config)["segplan"]["execution"]["memory_format"] == "channels_last"
    assert "uncompiled, contiguous before, uncompiled, channels_last now" in caplog.text


def test_a_warm_up_that_takes_all_epochs_is_said(tmp_path, capsys):
    assert run(make_run(tmp_path, *SHORT, "schedule.warmup_epochs=50")) == 0
    assert "schedule.warmup_epochs=50 of trainer.max_epochs=1: the learning rate only rises, to 2%" in (
        capsys.readouterr().out
    )


def test_a_schedule_that_follows_the_losses_is_saved_with_the_epoch_that_just_ended(tmp_path, monkeypatch):
    config = make_run(tmp_path, *SHORT, "trainer.max_epochs=3")
    halved_each_epoch = {"patience": 0, "threshold": 99.0, "divisor": 2.0}
    config.schedule = OmegaConf.merge(OmegaConf.load(CONFIGS / "schedule" / "plateau.yaml"), halved_each_epoch)
    monkeypatch.setattr(StopAt, "steps", 3)  # the end of the first epoch
    with monkeypatch.context() as patch:
        patch.setattr("segplan.jobs.training_parts.Checkpoints", StopAt)
        assert run(config) == 128 + signal.SIGTERM
    state = checkpoint_of(config, "last")["segplan"]["schedule"]
    assert float(rows_of(fold_folder(config))[0]["train_loss"]) == state["train"]
    assert run(config) == 0
    # The first epoch is always a fall; after the second and the third the rate is halved.
    assert [float(row["lr"]) for row in rows_of(fold_folder(config))] == pytest.approx([0.01, 0.01, 0.005])


def test_a_run_goes_on_in_the_precision_that_auto_meant_when_it_began(tmp_path):
    config = make_run(tmp_path, *SHORT, "trainer.precision=auto")
    config.trainer.max_time = {"seconds": 1e-6}
    assert run(config) == 1
    last = fold_folder(config) / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["segplan"]["precision"] = "32-true"
    torch.save(content, last)
    config.trainer.max_time = None
    assert run(config) == 0
    assert checkpoint_of(config)["segplan"]["precision"] == "32-true"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("validation.every_n_epochs=0", "validation.every_n_epochs"),
        ("validation.every_n_epochs=2", "2 is more than all epochs"),
        ("trainer.max_time=soon", "DD:HH:MM:SS"),
        ("module.ema_decay=2", "module.ema_decay"),
        ("module.oom=retry", "module.oom"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_written(tmp_path, override, message):
    config = make_run(tmp_path, *SHORT, override)
    with pytest.raises(ConfigError, match=message):
        run(config)
    assert [path.name for path in fold_folder(config).iterdir()] == ["config.yaml"]
