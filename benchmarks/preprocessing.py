"""Preprocessing alone, segplan against nnU-Net 2.8.1: wall, CPU and memory on the same cases, and the differences.

Both programs preprocess 3d_fullres from the same fingerprint and spacing, made before the clock starts; nnU-Net with as
many processes as cores. The default is scaled down to what two cores do in less than 25 minutes, `--full` is not:

    Hippocampus      260 cases, three rounds: not scaled down
    SarcomaCT        9 cases, three rounds: not scaled down
    CT, 3 classes    512×512 at 0.7 mm to 1 mm: 200 slices of 1.5 mm, three rounds; --full: 400 slices
    CT, 60 classes   the same, one round; --full: 400 slices, one round
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_data import DATA_VARIABLE, HIPPOCAMPUS, SARCOMA
from label_ties import near_ties
from large_ct import write_large_ct
from measure import (
    REPOSITORY,
    Measurement,
    core_count,
    cost_rows,
    in_turn,
    neutral_environment,
    print_comparison,
    print_machine,
    run_measured,
    warm_file_cache,
)
from reference_environment import (
    Reference,
    ReferenceFolders,
    add_reference_arguments,
    ensure_reference,
    run_benchmark,
)

CONFIGURATION = "3d_fullres"
LARGEST_IMAGE_DIFFERENCE = 1e-4  # of the channel's standard deviation
LARGEST_SHARE_OF_TIES = 1e-5


@dataclass(frozen=True)
class Workload:
    """One dataset to preprocess, and what is asked of segplan there."""

    title: str
    dataset: Path
    spacing: tuple[float, float, float] | None
    repeats: int
    goals: dict[str, float]


def workloads(scratch: Path, arguments: argparse.Namespace) -> list[Workload]:
    """What to run; real datasets only where the caller has them."""
    found: list[Workload] = []
    root = os.environ.get(DATA_VARIABLE)
    slices = arguments.slices or (400 if arguments.full else 200)
    memory = {"peak memory, MiB": 0.5}
    for name, cpu in ((HIPPOCAMPUS, 1 / 2), (SARCOMA, None)):
        if root and (Path(root) / name / "dataset.json").is_file():
            goals = memory if cpu is None else {"CPU, s": cpu, **memory}
            found.append(Workload(name, Path(root) / name, None, arguments.repeats, goals))
        else:
            print(f"note: ${DATA_VARIABLE} does not hold {name}, it is left out")
    for classes, ratio, repeats in ((3, 1 / 5, arguments.repeats), (60, 1 / 20, 1)):
        dataset = write_large_ct(scratch / f"Dataset{900 + classes}_CT{classes}Classes", slices, classes)
        title = f"CT 512×512×{slices} at 0.7×0.7×1.5 mm to 1 mm, {classes} classes"
        found.append(Workload(title, dataset, (1.0, 1.0, 1.0), repeats, {"CPU, s": ratio, **memory}))
    if arguments.only:
        found = [load for load in found if any(word in load.dataset.name for word in arguments.only)]
    return found


def plan_both(load: Workload, reference: Reference, folders: ReferenceFolders, workspace: Path) -> None:
    """Fingerprint (once, by segplan, in the form that nnU-Net reads) and both plans."""
    plan = [sys.executable, "plan.py", f"dataset={load.dataset}", f"workspace={workspace}", "name=benchmark"]
    plan += [f"configurations=[{CONFIGURATION}]", "stages=[verify,fingerprint,plan]"]
    if load.spacing:
        plan.append(f"planner.target_spacing=[{','.join(map(str, load.spacing))}]")
    run_measured(plan, workspace / "plan.log", neutral_environment(PYTHONPATH=str(REPOSITORY)))
    folders.hold(load.dataset)
    target = folders.preprocessed / load.dataset.name
    target.mkdir(parents=True, exist_ok=True)
    fingerprint = workspace / "fingerprints" / load.dataset.name / "dataset_fingerprint.json"
    shutil.copy(fingerprint, target)
    shutil.copy(load.dataset / "dataset.json", target)
    command = [str(reference.command("nnUNetv2_plan_experiment")), "-d", _number(load.dataset)]
    if load.spacing:
        command += ["-overwrite_target_spacing", *map(str, load.spacing)]
    run_measured(command, folders.root / "plan.log", folders.environment())


def run_reference(load: Workload, reference: Reference, folders: ReferenceFolders) -> Measurement:
    """nnU-Net's preprocessing; it empties its folder first by itself."""
    command = [str(reference.command("nnUNetv2_preprocess")), "-d", _number(load.dataset)]
    command += ["-c", CONFIGURATION, "-np", str(core_count())]
    return run_measured(command, folders.root / "preprocess.log", folders.environment())


def run_segplan(load: Workload, workspace: Path) -> Measurement:
    """plan.py stages=[preprocess] into an empty store."""
    shutil.rmtree(workspace / "preprocessed", ignore_errors=True)
    command = [sys.executable, "plan.py", f"dataset={load.dataset}", f"workspace={workspace}", "name=benchmark"]
    command += [f"configurations=[{CONFIGURATION}]", "stages=[preprocess]", f"num_workers={core_count()}"]
    log = workspace / "preprocess.log"
    return run_measured(command, log, neutral_environment(PYTHONPATH=str(REPOSITORY)))


def differences(load: Workload, reference: Reference, folders: ReferenceFolders, workspace: Path) -> bool:
    """Print the largest differences of all cases; returns whether they are within what is promised."""
    theirs = folders.preprocessed / load.dataset.name / f"nnUNetPlans_{CONFIGURATION}"
    (ours,) = (workspace / "preprocessed" / load.dataset.name).iterdir()
    result = workspace / "difference.json"
    script = Path(__file__).with_name("preprocessing_difference.py")
    run_measured([reference.python, script, theirs, ours, result], workspace / "difference.log", folders.environment())
    found: dict[str, Any] = json.loads(result.read_text())
    cases: list[dict[str, Any]] = found["cases"]
    wrong = [f"{case['case']}: shapes {case['shapes']}" for case in cases if "shapes" in case]
    wrong += [f"{name}: only on one side" for name in found["missing"]]
    whole = [case for case in cases if "shapes" not in case]
    wrong += [f"{case['case']}: {', '.join(case['properties'])}" for case in whole if case["properties"]]
    image = max((case["image"] for case in whole), default=0.0)
    voxels = sum(case["voxels"] for case in whole)
    differing = sum(case["labels"] for case in whole)
    ties = sum(near_ties(load.dataset, ours, case["case"], case["places"]) for case in whole if case["labels"])
    print(
        f"differences over {len(whole)} case(s), {voxels} voxels: image at most {image:.1e} of the channel's standard "
        f"deviation; labels {differing - ties} voxels, and {ties} where the two best weights differ by less than 1e-6; "
        f"properties and locations {'the same' if not wrong else 'DIFFER'}"
    )
    for line in wrong[:10]:
        print(f"  {line}")
    labels_agree = differing == ties and ties <= LARGEST_SHARE_OF_TIES * voxels
    return image <= LARGEST_IMAGE_DIFFERENCE and labels_agree and not wrong


def _number(dataset: Path) -> str:
    return str(int(dataset.name.removeprefix("Dataset")[:3]))


def run_workload(load: Workload, reference: Reference, scratch: Path) -> bool:
    """Measure both programs on one dataset and compare what they made."""
    print(f"\n## {load.title}\n", flush=True)
    workspace, folders = scratch / "segplan", ReferenceFolders(scratch / "reference")
    for folder in (workspace, folders.root):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    warm_file_cache(load.dataset)
    plan_both(load, reference, folders, workspace)
    measured = in_turn(
        {
            "nnU-Net": lambda _: run_reference(load, reference, folders),
            "segplan": lambda _: run_segplan(load, workspace),
        },
        load.repeats,
    )
    print_comparison(cost_rows(measured["segplan"], measured["nnU-Net"]), load.goals)
    ratio = np.median([one.cpu_s for one in measured["nnU-Net"]]) / np.median(
        [one.cpu_s for one in measured["segplan"]]
    )
    print(f"\nCPU time: {ratio:.1f} times less than nnU-Net's")
    return differences(load, reference, folders, workspace)


def compile_kernels() -> None:
    """Compile segplan's resampling once, before the rounds, and say how long it takes on this machine."""
    command = [sys.executable, "-c", "import segplan.preprocessing.kernels"]
    with tempfile.TemporaryDirectory(prefix="segplan-numba-") as cache:
        log = Path(cache) / "log"
        fresh = run_measured(command, log, neutral_environment(PYTHONPATH=str(REPOSITORY), NUMBA_CACHE_DIR=cache))
    cached = [
        run_measured(command, Path(tempfile.gettempdir()) / "segplan-kernels.log", neutral_environment())
        for _ in range(2)
    ][-1]
    print(f"resampling kernels: compiled in {fresh.wall_s:.1f} s, once a machine; loaded in {cached.wall_s:.1f} s")


def body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    with tempfile.TemporaryDirectory(prefix="segplan-preprocessing-", dir=arguments.scratch) as name:
        scratch = Path(name)
        print_machine()
        compile_kernels()
        agree = [run_workload(load, reference, scratch) for load in workloads(scratch, arguments)]
    return 0 if all(agree) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Preprocessing: segplan against nnU-Net 2.8.1.")
    add_reference_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3; the 60 classes: always one)")
    parser.add_argument("--full", action="store_true", help="the CTs with all 400 slices, not 200")
    parser.add_argument("--slices", type=int, help="slices of the CTs, in place of either")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only datasets whose folder's name has such a word")
    parser.add_argument("--scratch", type=Path, help="folder for all that is made (default: the temporary folder)")
    return run_benchmark(body, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
