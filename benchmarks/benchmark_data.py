"""The raw dataset that a benchmark runs on: a real one where the caller has it, else a phantom."""

import argparse
import os
import sys
from pathlib import Path

from measure import REPOSITORY, BenchmarkFailed, neutral_environment, run_measured

DATA_VARIABLE = "SEGPLAN_TEST_DATA"
HIPPOCAMPUS = "Dataset004_Hippocampus"
SARCOMA = "Dataset901_SarcomaCT"
PHANTOM = "Dataset999_Phantom"
PHANTOM_SEED = 0


def add_dataset_argument(parser: argparse.ArgumentParser) -> None:
    """The argument that names another dataset than the default one."""
    parser.add_argument(
        "--dataset",
        type=Path,
        help=f"a raw dataset folder (default: {HIPPOCAMPUS} in ${DATA_VARIABLE}, else a phantom)",
    )


def raw_dataset(chosen: Path | None, scratch: Path, phantom_cases: int) -> Path:
    """Folder of the raw dataset to run on; says which it is.

    Args:
        chosen: the user's own choice.
        scratch: where a phantom is made, if one is needed.
        phantom_cases: number of its cases.

    Raises:
        BenchmarkFailed: the chosen folder, or the one that the variable promises, holds no dataset.json.
    """
    root = os.environ.get(DATA_VARIABLE)
    if chosen is None and not root:
        print(f"note: ${DATA_VARIABLE} is not set, so this runs on a phantom and not on {HIPPOCAMPUS}: other numbers")
        return _phantom(scratch, phantom_cases)
    folder = chosen if chosen is not None else Path(str(root)) / HIPPOCAMPUS
    if not (folder / "dataset.json").is_file():
        raise BenchmarkFailed(f"{folder} holds no dataset.json; mend --dataset or ${DATA_VARIABLE}")
    print(f"dataset: {folder.name}")
    return folder.resolve()


def _phantom(scratch: Path, cases: int) -> Path:
    folder = scratch / PHANTOM
    if not (folder / "dataset.json").is_file():
        command = [sys.executable, "-m", "segplan.cli", "phantom", str(folder), "--kind", "mr"]
        command += ["--cases", str(cases), "--seed", str(PHANTOM_SEED)]
        run_measured(command, scratch / "phantom.log", neutral_environment(PYTHONPATH=str(REPOSITORY)))
    return folder
