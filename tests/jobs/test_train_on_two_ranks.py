"""The real training command with two processes of Lightning's, against the same with one."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from jobs.tiny_run import make_run
from run_comparison import rows_of

from segplan.dataset import Split, write_splits
from segplan.jobs import train_fold
from segplan.jobs.fold_validation import validate_fold
from segplan.jobs.prepare import fold_folder
from segplan.jobs.training_setup import prepare_training
from segplan.training import load_checkpoint
from segplan.training.after_training import Ranks

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
    alone, shared = (json.loads(next((tmp_path / devices).rglob("summary.json")).read_text()) for devices in "12")
    assert [Path(case["prediction_file"]).name for case in shared["metric_per_case"]] == ["e.nii.gz", "f.nii.gz"]
    for one_case, two_case in zip(alone["metric_per_case"], shared["metric_per_case"], strict=True):
        for label, scores in one_case["metrics"].items():
            assert two_case["metrics"][label]["Dice"] == pytest.approx(scores["Dice"], abs=1e-3)


@pytest.mark.parametrize(("rank", "cases"), [(0, ["a", "c", "e"]), (1, ["b", "d"])])
def test_each_rank_validates_its_share_and_the_first_writes_the_summary(tmp_path, monkeypatch, rank, cases):
    config = make_run(tmp_path, "trainer.max_epochs=1")
    write_splits(tmp_path / "plan" / "Dataset999_Tiny" / "splits_final.json", [Split(("f",), tuple("abcde"))])
    with monkeypatch.context() as alone:
        alone.setattr(train_fold, "validate_fold", lambda *_: {})
        with suppress(FileNotFoundError):  # no summary to print
            train_fold.run(config)
    rounds = []

    class Unheard(Ranks):
        def gather(self, value):
            rounds.append(value)
            return [value]

    setup = prepare_training(config)
    setup.validation.mkdir(exist_ok=True)
    (setup.validation / "summary.json").write_text("{}")
    summary = validate_fold(setup, Unheard(rank, 2))
    written = {path.name.removesuffix(".nii.gz") for path in setup.validation.glob("*.nii.gz")}
    assert written == set(cases)
    assert len(summary["metric_per_case"]) == len(cases)
    content = json.loads((setup.validation / "summary.json").read_text())
    assert bool(content) == (rank == 0)
    # Two beginnings, three times two cases, of which the second rank has two, and the results.
    assert len(rounds) == 2 + 3 + 1


def test_a_case_that_the_second_process_cannot_validate_is_told_once_and_the_same_command_goes_on(tmp_path):
    config = make_run(tmp_path, "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.devices=2")
    reference = next(tmp_path.rglob("f.reference.npz"))
    whole = reference.read_bytes()
    reference.write_bytes(whole[:50])
    command = [sys.executable, "-m", "segplan.jobs.train", str(fold_folder(config) / "config.yaml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("f.reference.npz") == 1
    assert not (fold_folder(config) / "validation" / "summary.json").exists()
    assert (fold_folder(config) / "checkpoints" / "final.ckpt").is_file()
    reference.write_bytes(whole)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((fold_folder(config) / "validation" / "summary.json").read_text())["metric_per_case"]) == 2


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
