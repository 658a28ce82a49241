"""Train a run again from what its folder says, and compare: versions, plan and data then weights and scores."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from segplan.errors import RunError
from segplan.jobs.console import print_table
from segplan.jobs.prepare import fold_folder, prepare_command
from segplan.jobs.provenance import describe, read_provenance
from segplan.jobs.training_setup import prepare_training


def run(
    folder: Path, name: str | None, workspace: Path | None, *, train: Callable[[Sequence[str]], int] | None = None
) -> int:
    """Reproduce a run, or one fold; returns the highest exit code of the trainings.

    Args:
        folder: RUN or RUN/fold_K.
        name: of the new run; None: RUN-again.
        workspace: where plans and data stand; None: the one that the run stands in.
        train: runs a training's command; None: only what can be compared without training is.

    Raises:
        SegplanError: the folder holds no run, or its data are gone.
    """
    folder = folder.absolute()
    folds = [folder] if (folder / "config.yaml").is_file() else sorted(folder.glob("fold_*/"))
    folds = [fold for fold in folds if (fold / "config.yaml").is_file()]
    if not folds:
        raise RunError("holds no run", folder, "Name a folder such as workspace/runs/DATASET/CONFIGURATION/RUN.")
    highest = 0
    for fold in folds:
        code = _reproduce(fold, name, workspace, train)
        if code > 128:  # a signal stopped it: the same command goes on
            return code
        highest = max(highest, code)
    return highest


def _reproduce(
    fold: Path, name: str | None, workspace: Path | None, train: Callable[[Sequence[str]], int] | None
) -> int:
    config = OmegaConf.load(fold / "config.yaml")
    if not isinstance(config, DictConfig):
        raise RunError("is no configuration of a run", fold / "config.yaml")
    before = (read_provenance(fold).get("starts") or [{}])[0]
    changes = {
        "workspace": str(workspace or _workspace_of(fold, config)),
        "run": name or f"{config.run}-again",
        "force": False,
        "mode": "train",
    }
    config.merge_with(changes)
    config.logger = {}  # dashboards show the run that was watched
    setup = prepare_training(config)
    print(f"{fold}: fold {config.fold}, seed {config.seed}")
    _print_differences(before, describe(setup))
    is_whole = (fold / "weights.safetensors").is_file()
    if not is_whole:
        print("  it was not trained to its end: there are no weights to compare with")
    if train is None:
        return 0
    command = prepare_command(config)
    sys.stdout.flush()
    code = train(command)
    if code == 0 and is_whole:
        _compare(fold, fold_folder(config))
    return code


def _workspace_of(fold: Path, config: DictConfig) -> Path:
    """The workspace that the fold's folder stands in; a workspace may have been moved since."""
    depth = len(fold_folder(config).relative_to(Path(config.workspace)).parts)
    return fold.parents[depth - 1]


def _print_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if not before:
        print("  it has no provenance.json: versions and data of that time are not known")
        return
    rows = [
        [key, str(old), str(new)]
        for key in ("git", "plan", "plan file", "data")
        if (key in before or key != "plan file")  # which older runs did not note
        and (old := before.get(key)) != (new := now.get(key))
    ]
    for group in ("versions", "hardware"):
        old_values, new_values = before.get(group) or {}, now.get(group) or {}
        rows += [
            [key, str(old_values.get(key)), str(new_values.get(key))]
            for key in sorted({*old_values, *new_values})
            if old_values.get(key) != new_values.get(key)
        ]
    if rows:
        print_table(["differs", "then", "now"], rows, indent="  ")
    else:
        print("  versions, machine, plan and data are those of then")


def _compare(first: Path, second: Path) -> None:
    """Print how far weights and scores of two folds are apart."""
    from safetensors.numpy import load_file

    one, other = (load_file(folder / "weights.safetensors") for folder in (first, second))
    largest = max(float(np.abs(one[key].astype(np.float64) - other[key]).max()) for key in one)
    equal = all(np.array_equal(one[key], other[key]) for key in one)
    print(f"weights: {'bit-equal' if equal else f'largest difference {largest:.3g}'}")
    scores = [_dice(folder) for folder in (first, second)]
    if None not in scores:
        print(f"Dice of whole cases: {scores[0]:.4f} then, {scores[1]:.4f} now")
    if not equal:
        print("Use determinism=strict and the same versions, machine kind and OMP_NUM_THREADS for bit-equal weights.")


def _dice(folder: Path) -> float | None:
    try:
        summary = json.loads((folder / "validation" / "summary.json").read_text(encoding="utf-8"))
        return float(summary["foreground_mean"]["Dice"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
