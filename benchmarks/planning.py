"""plan.py against nnU-Net's plan_and_preprocess: wall time, CPU time and memory on one dataset, and the plans.

Each program verifies, measures, plans and preprocesses 2d and 3d_fullres from nothing, with a process a core, three
times in turn.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark_data import add_dataset_argument, raw_dataset
from measure import (
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
from omegaconf import OmegaConf
from reference_environment import (
    Reference,
    ReferenceFolders,
    add_reference_arguments,
    ensure_reference,
    planning_command,
    run_benchmark,
)

CONFIGURATIONS = ["2d", "3d_fullres"]
GOALS = {"wall, s": 0.5, "CPU, s": 0.5}


def run_reference(reference: Reference, dataset: Path, root: Path, configurations: list[str]) -> Measurement:
    """nnU-Net's planning in empty folders under `root`."""
    folders = ReferenceFolders(root)
    folders.hold(dataset)
    command = planning_command(reference, dataset, configurations)
    return run_measured(command, root / "plan.log", folders.environment())


def run_segplan(dataset: Path, workspace: Path, configurations: list[str]) -> Measurement:
    """plan.py in an empty workspace."""
    command = [sys.executable, "plan.py", f"dataset={dataset}", f"workspace={workspace}"]
    command += [f"configurations=[{','.join(configurations)}]", f"num_workers={core_count()}"]
    return run_measured(command, workspace / "plan.log", neutral_environment())


def reference_plans(folders: ReferenceFolders, dataset: str) -> dict[str, Any]:
    """Configurations of the plans file that nnU-Net wrote."""
    plans = json.loads((folders.preprocessed / dataset / "nnUNetPlans.json").read_text())
    return dict(plans["configurations"])


def print_plans(dataset: str, workspace: Path, folders: ReferenceFolders) -> bool:
    """Print patch and batch size of both programs; returns whether all agree."""
    theirs = reference_plans(folders, dataset)
    print("\n| configuration | segplan | nnU-Net 2.8.1 | same |\n|---|---|---|---|")
    agree = True
    for name in CONFIGURATIONS:
        node = OmegaConf.load(workspace / "plan" / dataset / f"{name}.yaml").data
        ours = (list(node.patch_size), int(node.batch_size))
        reference = (list(theirs[name]["patch_size"]), int(theirs[name]["batch_size"]))
        agree = agree and ours == reference
        shown = [f"patch {'×'.join(map(str, patch))}, batch {batch}" for patch, batch in (ours, reference)]
        print(f"| {name} | {shown[0]} | {shown[1]} | {'yes' if ours == reference else 'NO'} |")
    return agree


def body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    with tempfile.TemporaryDirectory(prefix="segplan-planning-") as name:
        scratch = Path(name)
        dataset = raw_dataset(arguments.dataset, scratch, phantom_cases=40)
        warm_file_cache(dataset)
        print_machine()
        ours, theirs = scratch / "segplan", scratch / "reference"

        def fresh(folder: Path) -> Path:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            return folder

        measured = in_turn(
            {
                "nnU-Net": lambda _: run_reference(reference, dataset, fresh(theirs), CONFIGURATIONS),
                "segplan": lambda _: run_segplan(dataset, fresh(ours), CONFIGURATIONS),
            },
            arguments.repeats,
        )
        print_comparison(cost_rows(measured["segplan"], measured["nnU-Net"]), GOALS)
        return 0 if print_plans(dataset.name, ours, ReferenceFolders(theirs)) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Planning and preprocessing: segplan against nnU-Net 2.8.1.")
    add_dataset_argument(parser)
    add_reference_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    return run_benchmark(body, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
