import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from run_comparison import rows_of, same
from tiny_run import CASES, make_run

from segplan.errors import ConfigError, PlanError, RunError, StoreError
from segplan.imaging import read_label_map
from segplan.jobs.prepare import fold_folder
from segplan.jobs.train import main
from segplan.jobs.train_fold import run
from segplan.model_folder import ModelFolder
from segplan.training import load_checkpoint
from segplan.training.callbacks import Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = make_run(tmp_path_factory.mktemp("workspace"), "trainer.max_epochs=8")
    assert run(config) == 0
    return config, fold_folder(config)


def test_a_run_leaves_checkpoints_metrics_weights_and_a_validation_summary(trained):
    _, folder = trained
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt", "final.ckpt"}
    assert [row["epoch"] for row in rows_of(folder)] == [str(epoch) for epoch in range(1, 9)]
    assert [row["step"] for row in rows_of(folder)] == [str(4 * epoch) for epoch in range(1, 9)]
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert set(summary) >= {"foreground_mean", "mean", "metric_per_case"}
    assert len(summary["metric_per_case"]) == 2


def test_training_learns_a_simple_task(trained):
    _, folder = trained
    losses = [float(row["train_loss"]) for row in rows_of(folder)]
    assert losses[-1] < losses[0] - 0.5


def test_the_summary_agrees_with_the_label_maps_that_were_written(trained):
    config, folder = trained
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    dice = []
    for case in CASES[4:]:
        predicted = read_label_map(folder / "validation" / f"{case}.nii.gz")
        reference = reference_of(config, case)
        assert predicted.geometry.origin == (5.0, 6.0, 7.0)
        both = ((predicted.array[0] == 1) & (reference == 1)).sum()
        dice.append(2 * both / ((predicted.array[0] == 1).sum() + (reference == 1).sum()))
    assert summary["mean"]["1"]["Dice"] == pytest.approx(np.mean(dice))


def reference_of(config, case):
    from segplan.jobs.plan_node import store_folder
    from segplan.preprocessing import CaseStore

    return CaseStore(store_folder(Path(config.workspace), config.plan)).open(case).reference()


def test_the_run_folder_is_a_model_folder(trained):
    _, folder = trained
    model = ModelFolder.open(folder.parent)
    weights = model.read_weights(0)
    state = load_checkpoint(folder / "checkpoints" / "final.ckpt")["state_dict"]
    assert {f"network.{key}" for key in weights} == set(state)
    assert model.mirror_axes == (0, 1, 2)
    assert model.network["name"] == "PlainUNet"
    assert model.weights_path(0, "best").exists()


def test_the_same_command_again_says_that_nothing_is_left_to_do(trained, capsys):
    config, folder = trained
    before = (folder / "checkpoints" / "final.ckpt").stat().st_mtime_ns
    assert run(config) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert (folder / "checkpoints" / "final.ckpt").stat().st_mtime_ns == before


def test_a_missing_validation_summary_is_made_again(trained, capsys):
    config, folder = trained
    (folder / "validation" / "summary.json").unlink()
    assert run(config) == 0
    assert "nothing is left" not in capsys.readouterr().out
    assert (folder / "validation" / "summary.json").exists()


def test_another_configuration_in_the_same_folder_is_refused_with_the_keys(trained):
    config, _ = trained
    other = OmegaConf.merge(config, {"data": {"batch_size": 4}, "optimizer": {"lr": 0.1}})
    with pytest.raises(RunError, match=r"data.batch_size 2 → 4, optimizer.lr 0.01 → 0.1"):
        run(other)


def test_a_checkpoint_of_another_plan_is_refused(trained, tmp_path):
    _, folder = trained
    config = make_run(tmp_path, "plan.normalization=[none]")
    make_run(tmp_path)
    target = fold_folder(config) / "checkpoints"
    target.mkdir(parents=True)
    (target / "last.ckpt").write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
    from tiny_run import write_store

    from segplan.jobs.plan_node import labels_of, store_folder

    plan = OmegaConf.to_container(config.plan)
    write_store(store_folder(tmp_path, plan), labels_of(plan), plan)
    with pytest.raises(RunError, match=r"another plan \(plan.normalization"):
        run(config)


class StopAt(Checkpoints):
    """Acts as if a signal had come after some optimiser steps."""

    steps = 0

    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step == self.steps:
            os.kill(os.getpid(), signal.SIGTERM)
        super().on_train_batch_end(trainer, *arguments)


@pytest.mark.parametrize("steps", [2, 4, 6])  # inside an epoch, at its last step, inside the next
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, monkeypatch, capsys, steps):
    whole = make_run(tmp_path, "run=whole")
    assert run(whole) == 0
    parted = make_run(tmp_path, "run=parted")
    monkeypatch.setattr(StopAt, "steps", steps)
    with monkeypatch.context() as patch:
        patch.setattr("segplan.jobs.training_parts.Checkpoints", StopAt)
        assert run(parted) == 128 + signal.SIGTERM
    assert "the same command goes on" in capsys.readouterr().out
    assert run(parted) == 0
    assert rows_of(fold_folder(parted)) == rows_of(fold_folder(whole))
    left, right = (load_checkpoint(fold_folder(config) / "checkpoints" / "final.ckpt") for config in (whole, parted))
    for key in ("state_dict", "optimizer_states", "epoch", "global_step"):
        assert same(left[key], right[key]), key
    assert left["segplan"]["ema"] == right["segplan"]["ema"]
    assert same(left["segplan"]["train_loss"], right["segplan"]["train_loss"])


class RemoveCases(Checkpoints):
    """Removes the stored images after the second step."""

    def on_train_batch_end(self, trainer, *arguments):
        super().on_train_batch_end(trainer, *arguments)
        if trainer.global_step == 2:
            for path in images_of(trainer.datamodule.store.folder):
                path.rename(path.with_suffix(".away"))


def images_of(store: Path) -> list[Path]:
    return sorted(store.glob("*.image.npy"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_that_cannot_be_read_ends_training_with_what_was_reached(tmp_path, monkeypatch, workers):
    config = make_run(tmp_path, "trainer.max_epochs=1", "trainer.limit_train_batches=20", f"data.num_workers={workers}")
    with monkeypatch.context() as patch:
        patch.setattr("segplan.jobs.training_parts.Checkpoints", RemoveCases)
        with pytest.raises(StoreError, match="missing or damaged"):
            run(config)
    done = load_checkpoint(fold_folder(config) / "checkpoints" / "last.ckpt")["global_step"]
    assert 2 <= done < 20
    for path in tmp_path.rglob("*.away"):
        path.rename(path.with_suffix(".npy"))
    assert run(config) == 0
    assert [row["step"] for row in rows_of(fold_folder(config))] == ["20"]


def test_a_crash_loses_no_row_and_repeats_none(tmp_path):
    config = make_run(tmp_path, "checkpoint.minutes=0", "trainer.max_epochs=2")
    assert run(config) == 0
    folder = fold_folder(config)
    expected = rows_of(folder)
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,12,0.001,-0.5\n9")  # rows that no checkpoint knows of, the last one cut off
    config.trainer.max_epochs = 3
    assert run(config) == 0
    assert [row["epoch"] for row in rows_of(folder)] == ["1", "2", "3"]
    assert rows_of(folder)[:2] == expected


def test_raising_max_epochs_goes_on_with_the_new_schedule(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1")
    assert run(config) == 0
    config.trainer.max_epochs = 2
    assert run(config) == 0
    assert [float(row["lr"]) for row in rows_of(fold_folder(config))] == pytest.approx([0.01, 0.01 * 0.5**0.9])


def test_force_starts_over_once(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1")
    assert run(config) == 0
    changed = make_run(tmp_path, "trainer.max_epochs=1", "data.batch_size=3", "force=true")
    assert run(changed) == 0
    folder = fold_folder(config)
    assert OmegaConf.load(folder / "config.yaml").force is False
    assert json.loads((folder / "identity.json").read_text())["data.batch_size"] == 3


@pytest.mark.parametrize("kind", [{"flat": True}, {"regions": True}])
def test_2d_and_region_configurations_train_and_validate(tmp_path, kind):
    config = make_run(tmp_path, "trainer.max_epochs=1", **kind)
    assert run(config) == 0
    summary = json.loads((fold_folder(config) / "validation" / "summary.json").read_text())
    assert set(summary["mean"]) == ({"(1, 2)", "2"} if "regions" in kind else {"1", "2"})


def test_fold_all_trains_on_and_validates_every_case(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1", "fold=all")
    assert run(config) == 0
    summary = json.loads((fold_folder(config) / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(CASES)


def test_user_errors_are_one_line_and_exit_code_2(tmp_path, capsys):
    config = make_run(tmp_path, "data.patch_size=[8,18,16]")
    assert main([str(fold_folder(config) / "config.yaml")]) == 2
    assert capsys.readouterr().err == (
        "segplan: data.patch_size=[8,18,16] does not fit the network: axis y is halved 2 times, so its size must be a "
        "multiple of 4. Nearest: 16 or 20.\n"
    )


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("fold=-1", ConfigError, "there is no fold -1"),
        ("plan.runnable=false", PlanError, "cannot run"),
        ("plan.spacing=[2.0,2.0,2.0]", StoreError, "python plan.py dataset=Dataset999_Tiny"),
        ("trainer.limit_train_batches=0", ConfigError, "trainer.limit_train_batches"),
        ("mode=test", ConfigError, "mode=test"),
        ("loss._target_=segplan.training.DiceBCELoss", ConfigError, "loss=dice_ce"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(tmp_path, override, error, message):
    make_run(tmp_path)
    config = OmegaConf.merge(make_run(tmp_path), OmegaConf.from_dotlist([override]))
    with pytest.raises(error, match=message):
        run(config)
