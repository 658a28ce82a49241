"""Labels of any value go through the whole main job: the files' values outside, indices inside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_dataset import case_arrays, make_dataset

from segplan.cli import main
from segplan.preprocessing import CaseStore

BUDGET = (
    "data.batch_size=2",
    "data.patch_size=[8,16,16]",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=2",
    "trainer.accelerator=cpu",
    "network.features=[4,8]",
    "network.strides=[[1,1,1],[2,2,2]]",
    "network.kernel_sizes=[[3,3,3],[3,3,3]]",
    "inference.mirror=false",
    "data.num_workers=0",
)
ROOT = Path(__file__).resolve().parents[2]
VALUES = np.array([0, 10, 255], np.uint8)
IGNORE = 7
PLAIN = {"labels": {"background": 0, "right": 255, "left": 10}}
REGIONS = {
    "labels": {"background": 0, "both": [10, 255], "right": [255], "ignore": IGNORE},
    "regions_class_order": [10, 255],
}


def make_sparse(folder: Path, definition: dict) -> Path:
    """The small dataset with labels 10 and 255 for 1 and 2, and a corner to ignore if there is such a label."""
    make_dataset(folder, cases=5, shape=(10, 14, 16))
    for path in (folder / "labelsTr").iterdir():
        image = sitk.ReadImage(str(path))
        array = VALUES[sitk.GetArrayFromImage(image)]
        if "ignore" in definition["labels"]:
            array[:3, :3, :3] = IGNORE
        written = sitk.GetImageFromArray(array)
        written.CopyInformation(image)
        sitk.WriteImage(written, str(path))
    description = json.loads((folder / "dataset.json").read_text()) | definition
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def segplan(*words: str) -> None:
    """Run a job that ends its process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "segplan.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("definition", "loss"), [(PLAIN, "dice_ce"), pytest.param(REGIONS, "dice_bce", marks=pytest.mark.slow)]
)
def test_files_hold_their_own_values_and_the_store_indices(tmp_path, monkeypatch, definition, loss):
    monkeypatch.chdir(tmp_path)
    raw = make_sparse(tmp_path / "Dataset007_Sparse", definition)
    plan = f"plan={raw.name}/3d_fullres"
    assert main(["plan", f"dataset={raw}", "configurations=[3d_fullres]", "num_workers=0"]) == 0

    (folder,) = (tmp_path / "workspace" / "preprocessed" / raw.name).iterdir()
    case = CaseStore(folder).open("case_00")
    stored, reference = np.asarray(case.labels), case.reference()
    _, original = case_arrays(0, (10, 14, 16), 1)
    expected = original.copy()
    if loss == "dice_bce":
        expected[:3, :3, :3] = 3
    assert np.array_equal(stored, expected), "indices, the ignore label the last of them"
    assert set(np.unique(reference)) == {0, 10, 255} | ({IGNORE} if loss == "dice_bce" else set())
    for key, voxels in case.locations.items():
        if key != "annotated":
            assert len(voxels)

    sides = ["augmentation.mirror.swap_labels=[[10,255]]"] if loss == "dice_ce" else []
    segplan("train", plan, "fold=0", *BUDGET, *sides)
    segplan("predict", plan, f"input={raw / 'imagesTr'}", "output=out", "inference.mirror=false")
    values = set()
    for path in Path("out").glob("*.nii.gz"):
        values |= set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist())
    assert values <= {0, 10, 255}
    assert values & {10, 255}, "something is segmented, so that the values are put to the test"

    assert main(["evaluate", "out", str(raw / "labelsTr")]) == 0
    summary = json.loads(Path("out/summary.json").read_text())
    keys = {"10", "255"} if loss == "dice_ce" else {"(10, 255)", "(255,)"}
    assert set(summary["mean"]) == keys
    case = summary["metric_per_case"][0]
    name = Path(case["prediction_file"]).name
    mine = sitk.GetArrayFromImage(sitk.ReadImage(str(Path("out") / name)))
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / name)))
    counted = truth != IGNORE
    for key, members in (("255", [255]), ("(10, 255)", [10, 255])):
        if key in keys:
            a, b = np.isin(mine, members) & counted, np.isin(truth, members) & counted
            assert case["metrics"][key]["Dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_changing_which_value_stands_for_a_label_preprocesses_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    raw = make_sparse(tmp_path / "Dataset007_Sparse", PLAIN)
    command = ["plan", f"dataset={raw}", "configurations=[3d_fullres]", "num_workers=0"]
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert "done before" in capsys.readouterr().out.split("preprocess")[1]
    more = {"labels": {"background": 0, "new": 5, "left": 10, "right": 255}}
    description = json.loads((raw / "dataset.json").read_text()) | more
    (raw / "dataset.json").write_text(json.dumps(description))
    assert main(command) == 0
    stores = (tmp_path / "workspace" / "preprocessed" / raw.name).iterdir()
    newest = max(stores, key=lambda folder: folder.stat().st_mtime_ns)
    assert set(np.unique(CaseStore(newest).open("case_00").labels)) == {0, 2, 3}
