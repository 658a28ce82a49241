"""The main job end to end on data that segplan makes itself: phantom, plan, train, predict, evaluate, pictures.

Every step is the command that a user would type; it is printed, and skipped where its outcome is there already.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segplan.dataset import Case, Description, Labels, cases_in_folder, open_dataset
from segplan.errors import SegplanError
from segplan.evaluation import Targets, confusion_counts, fit_voxel_classifier
from segplan.imaging import read_image, read_label_map
from segplan.jobs.console import print_table, seconds
from segplan.jobs.inspection import write_json
from segplan.reporting import write_overlay

DATASET = "Dataset900_Phantom"
CONFIGURATION = "3d_fullres"
PHANTOM = ("kind=ct", "cases=40", "test_cases=8", "seed=0")
# A budget for two CPU cores: a thin network on small patches for 1500 steps, in place of 250,000.
BUDGET = (
    "network.features=[16,32,64,128]",
    "data.patch_size=[24,32,32]",
    "data.batch_size=2",
    "trainer.max_epochs=30",
    "trainer.limit_train_batches=50",
    "trainer.limit_val_batches=4",
)


class StepFailedError(SegplanError):
    """A command of the demo ended with an error; it has printed why."""

    exit_code = 1


def run(out: Path) -> int:
    """Run the demo in folder `out`; prints the Dice table and where the pictures are. Returns the exit code."""
    start = time.perf_counter()
    raw, workspace, predictions = out / DATASET, out / "workspace", out / "predictions"
    _step("phantom", str(raw), *PHANTOM)
    _step("plan", f"dataset={raw}", f"workspace={workspace}", f"configurations=[{CONFIGURATION}]")
    _step("train", f"plan={DATASET}/{CONFIGURATION}", f"workspace={workspace}", "fold=0", *BUDGET)
    _step(
        "predict", f"plan={DATASET}/{CONFIGURATION}", f"workspace={workspace}", "folds=[0]",
        f"input={raw / 'imagesTs'}", f"output={predictions}",
    )  # fmt: skip
    _step("evaluate", str(predictions), str(raw / "labelsTs"), f"output={out / 'evaluation'}")
    _report(raw, predictions, out)
    print(f"demo finished in {seconds(time.perf_counter() - start)}")
    return 0


def _step(*words: str) -> None:
    print(f"\n$ segplan {' '.join(words)}", flush=True)
    code = subprocess.call([sys.executable, "-m", "segplan.cli", *words])
    if code != 0:
        raise StepFailedError(f"segplan {words[0]} ended with exit code {code}", remedy="Its own message stands above.")


def _report(raw: Path, predictions: Path, out: Path) -> None:
    dataset = open_dataset(raw)
    description = dataset.description
    test = _test_cases(raw, description)
    summary = json.loads((out / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    floor = _baseline(dataset.cases, test, description.labels, out / "evaluation" / "voxel_classifier.json")
    ours = {name: summary["mean"][key]["Dice"] for key, name in Targets.from_labels(description.labels).names.items()}
    rows = [[name, f"{ours[name]:.3f}", f"{floor[name]:.3f}"] for name in ours]
    rows.append(["mean foreground", f"{np.mean(list(ours.values())):.3f}", f"{np.mean(list(floor.values())):.3f}"])
    print(f"\nDice on {len(test)} phantoms that training has not seen")
    print_table(["class", "segplan", "best per-voxel classifier"], rows, indent="  ")
    print("\nPictures (image, reference, prediction in three planes)")
    for case in test:
        print(f"  {_overlay(case, predictions, description, out / 'overlays')}")
    print(f"\nSummary: {out / 'evaluation' / 'summary.json'}")


def _test_cases(raw: Path, description: Description) -> list[Case]:
    cases = cases_in_folder(raw / "imagesTs", description.file_ending, len(description.channel_names))
    return [
        Case(case.identifier, case.images, raw / "labelsTs" / f"{case.identifier}{description.label_ending}")
        for case in cases
    ]


def _overlay(case: Case, predictions: Path, description: Description, folder: Path) -> Path:
    path = folder / f"{case.identifier}.png"
    predicted = predictions / f"{case.identifier}{description.label_ending}"
    if path.is_file() and path.stat().st_mtime >= predicted.stat().st_mtime:
        return path
    image, reference = read_image(case.images), _arrays(case)[1]
    names = {values[0]: name for name, values in description.labels.targets.items()}
    prediction = read_label_map(predicted).array[0]
    write_overlay(path, image.array, reference, prediction, image.spacing, names=names, title=case.identifier)
    return path


def _baseline(training: Sequence[Case], test: Sequence[Case], labels: Labels, record: Path) -> dict[str, float]:
    """Mean Dice per class of the best per-voxel classifier on the test cases; kept in `record`."""
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    classifier = fit_voxel_classifier([_arrays(case) for case in training], len(labels.all_labels))
    targets = Targets.from_labels(labels)
    scores: dict[str, list[float]] = {name: [] for name in targets.names.values()}
    for case in test:
        image, reference = _arrays(case)
        for key, counts in confusion_counts(classifier.predict(image), reference, targets).items():
            scores[targets.names[key]].append(counts.metrics()["Dice"])
    means = {name: float(np.nanmean(values)) for name, values in scores.items()}
    write_json(record, means)
    return means


def _arrays(case: Case) -> tuple[np.ndarray, np.ndarray]:
    if case.label is None:
        raise SegplanError("a phantom case has no label map", where=case.identifier, remedy="Remove the demo's folder.")
    return read_image(case.images).array, read_label_map(case.label).array[0]
