"""Plan, train, predict and evaluate through the commands that a user types, in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_dataset import make_dataset

ROOT = Path(__file__).resolve().parents[2]
BUDGET = (
    "data.batch_size=2",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "network.features=[4,8]",
    "network.strides=[[1,1,1],[2,2,2]]",
    "network.kernel_sizes=[[3,3,3],[3,3,3]]",
    "data.patch_size=[16,16,16]",
)


def command(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "segplan.cli", *map(str, words)]
    return subprocess.run(run, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def succeeds(*words: object, cwd: Path) -> str:
    done = command(*words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a planned dataset, a trained fold and predictions of the training images."""
    folder = tmp_path_factory.mktemp("main job")
    raw = make_dataset(folder / "Dataset004_Boxes (ü)", cases=6, spacing=(2.0, 1.0, 1.5))
    succeeds("plan", f"dataset={raw}", "configurations=[3d_fullres]", "num_workers=0", cwd=folder)
    succeeds("train", f"plan={raw.name}/3d_fullres", "fold=0", *BUDGET, cwd=folder)
    succeeds(
        "predict", f"plan={raw.name}/3d_fullres", "folds=[0]", f"input={raw / 'imagesTr'}", "output=out", cwd=folder
    )
    succeeds("evaluate", "out", raw / "labelsTr", cwd=folder)
    return folder, raw


def run_folder(folder: Path, raw: Path) -> Path:
    return folder / "workspace" / "runs" / raw.name / "3d_fullres" / "default"


def test_a_run_leaves_what_the_documentation_lists(trained):
    run = run_folder(*trained)
    fold = run / "fold_0"
    for name in (
        "config.yaml",
        "weights.safetensors",
        "weights_best.safetensors",
        "metrics.csv",
        "validation/summary.json",
    ):
        assert (fold / name).is_file(), name
    assert (run / "model.json").is_file()
    assert {path.stem for path in (fold / "checkpoints").iterdir()} == {"last", "best", "final"}
    rows = (fold / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3


def test_validation_covers_the_folds_whole_cases_in_nnunets_shape(trained):
    folder, raw = trained
    splits = json.loads((folder / "workspace" / "plan" / raw.name / "splits_final.json").read_text())
    summary = json.loads((run_folder(folder, raw) / "fold_0" / "validation" / "summary.json").read_text())
    assert set(summary) == {"foreground_mean", "mean", "metric_per_case"}
    assert set(summary["mean"]) == {"1", "2"}
    names = {Path(case["prediction_file"]).name for case in summary["metric_per_case"]}
    assert names == {f"{case}.nii.gz" for case in splits[0]["val"]}


def test_predictions_have_exactly_the_inputs_geometry(trained):
    folder, raw = trained
    for path in (raw / "labelsTr").iterdir():
        mine, given = sitk.ReadImage(str(folder / "out" / path.name)), sitk.ReadImage(str(path))
        assert mine.GetSize() == given.GetSize()
        assert mine.GetSpacing() == given.GetSpacing()
        assert mine.GetOrigin() == given.GetOrigin()
        assert mine.GetDirection() == given.GetDirection()


def test_evaluated_dice_equals_an_independent_computation(trained):
    folder, raw = trained
    summary = json.loads((folder / "out" / "summary.json").read_text())
    for case in summary["metric_per_case"]:
        mine = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / case["prediction_file"])))
        reference = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / Path(case["prediction_file"]).name)))
        for label in (1, 2):
            both = 2 * np.logical_and(mine == label, reference == label).sum()
            assert case["metrics"][str(label)]["Dice"] == pytest.approx(
                both / ((mine == label).sum() + (reference == label).sum())
            )


def test_the_same_commands_again_do_nothing(trained):
    folder, raw = trained
    weights = run_folder(folder, raw) / "fold_0" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert "nothing is left to do" in succeeds("train", f"plan={raw.name}/3d_fullres", "fold=0", *BUDGET, cwd=folder)
    again = succeeds(
        "predict", f"plan={raw.name}/3d_fullres", "folds=[0]", f"input={raw / 'imagesTr'}", "output=out", cwd=folder
    )
    assert "Nothing to do" in again
    assert weights.stat().st_mtime_ns == before


def test_a_run_with_another_config_is_refused_and_stays_untouched(trained):
    folder, raw = trained
    config = run_folder(folder, raw) / "fold_0" / "config.yaml"
    before = config.read_text()
    done = command("train", f"plan={raw.name}/3d_fullres", "fold=0", *BUDGET, "optimizer.lr=0.5", cwd=folder)
    assert done.returncode == 2
    assert "optimizer.lr 0.01 → 0.5" in done.stderr
    assert done.stderr.count("\n") == 1
    assert config.read_text() == before


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("fold=-1", "there is no fold -1"),
        ("data.patch_size=[16,15,16]", "Nearest: 14 or 16"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0"),
        ("data.batch_size=1.5", "data.batch_size=1.5"),
        ("mode=test", "mode=test"),
        ("run=a/b", "run=a/b"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(trained, override, expected):
    folder, raw = trained
    words = [word for word in BUDGET if word.split("=")[0] != override.split("=")[0]]
    before = sorted(path for path in (folder / "workspace").rglob("*"))
    done = command("train", f"plan={raw.name}/3d_fullres", *words, override, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path for path in (folder / "workspace").rglob("*")) == before


def test_training_needs_preprocessed_data_and_names_the_command(trained, tmp_path):
    folder, raw = trained
    shutil.copytree(folder / "workspace" / "plan", tmp_path / "workspace" / "plan")
    done = command("train", f"plan={raw.name}/3d_fullres", *BUDGET, cwd=tmp_path)
    assert done.returncode == 2
    assert "python plan.py" in done.stderr


def test_a_sweep_runs_every_fold_and_reports_the_one_that_fails(trained):
    folder, raw = trained
    words = [f"plan={raw.name}/3d_fullres", "fold=1,-1", "run=sweep", *BUDGET]
    done = command("train", "-m", *words, cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "there is no fold -1" in done.stderr
    assert (
        folder / "workspace" / "runs" / raw.name / "3d_fullres" / "sweep" / "fold_1" / "weights.safetensors"
    ).is_file()
    lines = done.stdout.splitlines()
    assert any(line.startswith("done: ") and "fold=1" in line for line in lines)
    assert any(line.startswith("failed (2): ") and "fold=-1" in line for line in lines)


def test_a_dataset_with_a_single_class_trains(tmp_path):
    raw = make_dataset(tmp_path / "Dataset005_One", cases=5, classes=1)
    succeeds("plan", f"dataset={raw}", "configurations=[3d_fullres]", "num_workers=0", cwd=tmp_path)
    succeeds("train", f"plan={raw.name}/3d_fullres", "fold=0", *BUDGET, "trainer.max_epochs=1", cwd=tmp_path)
    summary = json.loads((run_folder(tmp_path, raw) / "fold_0" / "validation" / "summary.json").read_text())
    assert set(summary["mean"]) == {"1"}


def test_python_api_example_of_the_docs_runs(trained, tmp_path, monkeypatch):
    folder, raw = trained
    text = (ROOT / "docs" / "python_api.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    model, images = "demo/workspace/runs/Dataset900_Phantom/3d_fullres/default", "demo/Dataset900_Phantom/imagesTs"
    assert model in code
    assert images in code
    code = code.replace(model, str(run_folder(folder, raw))).replace(images, str(raw / "imagesTr"))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/python_api.md", "exec"), {})
    written = sitk.ReadImage("segmentation.nii.gz")
    given = sitk.ReadImage(str(sorted((raw / "imagesTr").iterdir())[0]))
    assert written.GetSpacing() == given.GetSpacing()
    assert written.GetSize() == given.GetSize()
