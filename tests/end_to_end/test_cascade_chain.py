"""A cascade from raw images to predictions, on images that exceed the patch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_dataset import make_dataset

from segplan.entry.compose import compose_job
from segplan.entry.main import main
from segplan.imaging import read_label_map
from segplan.jobs.cascade import run as run_chain
from segplan.jobs.prepare import prepare_run
from segplan.jobs.train_fold import run

ROOT = Path(__file__).resolve().parents[2]
NAME = "Dataset040_Large"
# A card of 12 MB: patches of 14×16×16.
PLAN = ("configurations=[3d_lowres,3d_cascade_fullres]", "planner.gpu_memory_gb=0.012", "split.k=2", "num_workers=0")
BUDGET = (
    "network.features=[4,8,8]",
    "trainer.limit_val_batches=1",
    "trainer.precision=32",
    "data.num_workers=0",
    "inference.mirror=false",
)


def agreement(prediction: Path, validation: Path) -> float:
    """The lowest share of voxels with the same label over the validation's cases."""
    pairs = [(read_label_map(prediction / path.name), read_label_map(path)) for path in validation.glob("*.nii.gz")]
    assert len(pairs) == 2
    return min(float((one.array == other.array).mean()) for one, other in pairs)


def predict_words(raw: Path, out: Path) -> list[str]:
    model = [f"plan={NAME}/3d_cascade_fullres", "folds=[0]", "inference.mirror=false", "trainer.precision=32"]
    return [*model, f"input={raw / 'imagesTr'}", f"output={out}"]


def test_a_planned_cascade_trains_and_predicts(tmp_path, monkeypatch):
    """The chain's trainings run in this process; predict.py then finds the first stage in the second's model folder.

    With the fold of the first stage that did not see the validation cases, it gives these the validation's labels.
    """
    monkeypatch.setenv("SEGPLAN_WORKSPACE", str(tmp_path / "workspace"))
    raw = make_dataset(tmp_path / NAME, cases=4, shape=(30, 32, 34))
    assert main("plan", [f"dataset={raw}", *PLAN]) == 0
    workspace, done = tmp_path / "workspace", []

    def train(words: list[str]) -> int:
        config = compose_job("train", words, workspace)
        prepare_run(config)
        done.append((config.configuration, config.fold))
        return run(config)

    budget = [*BUDGET, "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    assert run_chain(workspace, NAME, budget, train=train, folds="0") == 0
    assert done == [("3d_lowres", 0), ("3d_lowres", 1), ("3d_cascade_fullres", 0)]
    run_folder = workspace / "runs" / NAME / "3d_cascade_fullres" / "default"
    shutil.rmtree(run_folder / "previous" / "fold_1")
    assert main("predict", predict_words(raw, tmp_path / "out")) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4
    assert agreement(tmp_path / "out", run_folder / "fold_0" / "validation") == 1


@pytest.mark.slow
def test_the_chain_of_commands_learns_and_goes_on_where_it_was(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SEGPLAN_WORKSPACE": str(tmp_path / "workspace"),
    }

    def segplan(*words: str) -> str:
        command = [sys.executable, "-m", "segplan.cli", *words]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    raw = make_dataset(tmp_path / NAME, cases=4, shape=(36, 38, 40))
    segplan("plan", f"dataset={raw}", *PLAN)
    words = ["cascade", NAME, "folds=0", *BUDGET, "trainer.max_epochs=4", "trainer.limit_train_batches=40"]
    assert segplan(*words, "--dry-run").count("python train.py") == 3
    segplan(*words)
    assert segplan(*words).count("nothing is left to do") == 3
    segplan("predict", *predict_words(raw, tmp_path / "out"))
    run_folder = tmp_path / "workspace" / "runs" / NAME / "3d_cascade_fullres" / "default"
    assert agreement(tmp_path / "out", run_folder / "fold_0" / "validation") > 0.97
    for path in (run_folder / "fold_0" / "validation").glob("*.nii.gz"):
        predicted, truth = (np.asarray(read_label_map(file).array) for file in (path, raw / "labelsTr" / path.name))
        dice = 2 * ((predicted > 0) & (truth > 0)).sum() / ((predicted > 0).sum() + (truth > 0).sum())
        assert dice > 2 * 2 * truth.astype(bool).mean()  # twice what all voxels as foreground could get
