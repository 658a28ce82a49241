"""The job `segplan jobs`: which folds of a dataset are done, running, failed or missing, and what to launch next."""

import functools
import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segplan.errors import RunError
from segplan.jobs.console import print_table, workspace_word
from segplan.jobs.fold_states import FoldState, Status, fold_states
from segplan.jobs.run_overrides import overrides_of_run

_HEADER = ("plan", "run", "fold", "state", "epoch", "Dice", "")
_ORDER: tuple[Status, ...] = ("done", "running", "stopped", "failed", "missing", "impossible")
_OPEN = ("stopped", "failed", "missing")

Compose = Callable[[str], Mapping[str, Any]]


def run(workspace: Path, dataset: str, compose: Compose, *, as_json: bool = False) -> int:
    """Print a line for each fold and the commands that are left; returns the exit code.

    Args:
        workspace: the workspace's folder.
        dataset: the dataset's name.
        compose: gives the training configuration of a plan, for the overrides of folds that never began.
        as_json: print a list of objects instead, for programs.

    Raises:
        RunError: nothing is planned or trained of this dataset.
    """
    states = fold_states(workspace, dataset)
    if not states:
        known = sorted({path.name for kind in ("plan", "runs") for path in (workspace / kind).glob("*/")})
        remedy = f"Known: {', '.join(known)}." if known else "Plan it first: segplan plan dataset=FOLDER."
        raise RunError("nothing is planned or trained", f"{dataset} in {workspace}", remedy)
    if as_json:
        print(json.dumps([asdict(state) | {"folder": str(state.folder)} for state in states], indent=1))
        return 0
    print_table(_HEADER, [_row(state) for state in states])
    counts = Counter(state.status for state in states)
    print(f"\n{', '.join(f'{counts[status]} {status}' for status in _ORDER if counts[status])}")
    commands = next_commands(states, workspace, compose)
    if commands:
        print("Next:")
        for command in commands:
            print(f"  {command}")
    elif not counts["running"]:
        print(f"Next: {shlex.join(['segplan', 'select', dataset, *workspace_word(workspace)])}")
    return 0


def next_commands(states: Sequence[FoldState], workspace: Path, compose: Compose) -> list[str]:
    """The commands that train what is left: one for each fold that began, one for all others of a run."""
    commands = [state.command_line for state in states if state.status in _OPEN and not _is_new(state)]
    new: dict[tuple[str, str], list[FoldState]] = defaultdict(list)
    for state in states:
        if _is_new(state):
            new[state.plan, state.run].append(state)
    for (plan, name), folds in new.items():
        words = list(folds[0].command)
        if len(folds) > 1:
            words[2:4] = ["-m", f"plan={plan}", f"fold={','.join(state.fold for state in folds)}"]
        words += overrides_of_run(workspace / "runs" / plan / name, functools.partial(compose, plan))
        commands.append(shlex.join(words))
    return commands


def _is_new(state: FoldState) -> bool:
    return state.status == "missing" and state.command[:2] == ("segplan", "train")


def _row(state: FoldState) -> list[str]:
    epochs = "" if state.max_epochs is None else f"{state.epoch}/{state.max_epochs}"
    dice = "" if state.dice is None else f"{state.dice:.4f}"
    detail = state.detail if len(state.detail) < 160 else f"{state.detail[:157]}…"
    return [state.plan, state.run, state.fold, state.status, epochs, dice, detail]
