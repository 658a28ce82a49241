"""The chain of a cascade: every fold of the first stage, its segmentations of their cases, then the second stage."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from segplan.dataset import read_splits
from segplan.errors import ConfigError, DatasetError, PlanError
from segplan.jobs.console import workspace_word
from segplan.jobs.previous_stage import folds_of_cases

CONFIGURATION = "3d_cascade_fullres"
_OWN_KEYS = ("plan", "fold", "mode", "workspace", "plan.previous_stage")


def run(
    workspace: Path,
    dataset: str,
    overrides: Sequence[str] = (),
    *,
    train: Callable[[list[str]], int] | None,
    name: str | None = None,
    folds: str | None = None,
) -> int:
    """Train both stages, one command of train.py after the other; each goes on where it was, or does nothing.

    Args:
        workspace: where the dataset is planned.
        dataset: its name.
        overrides: of both stages' trainings; `plan.previous_stage_run=` says which run the first stage is, `run=` the
            name of the second's, and of the first's too unless that is said.
        train: what runs train.py with such arguments and returns its exit code; None only prints the commands.
        name: the plan's, where it is not the default planner's.
        folds: of the second stage, as "0,1" or "[0,1]"; None for all of splits_final.json.

    Returns:
        0, or the exit code of the command that failed.

    Raises:
        PlanError: the dataset has no cascade.
        DatasetError: there are no folds.
        ConfigError: an override or a fold cannot be used.
    """
    first, second = chain(workspace, dataset, overrides, name=name, folds=folds)
    commands = [*first, *second]
    for number, words in enumerate(commands, start=1):
        print(f"[{number}/{len(commands)}] {shlex.join(['python', 'train.py', *words])}", flush=True)
        code = 0 if train is None else train(words)
        if code:
            print("the cascade stops here; the same command goes on", file=sys.stderr)
            return code
    return 0


def chain(
    workspace: Path, dataset: str, overrides: Sequence[str] = (), *, name: str | None = None, folds: str | None = None
) -> tuple[list[list[str]], list[list[str]]]:
    """The arguments of every training of the first stage, and of the second, which needs all of the first.

    Arguments and errors are those of `run`.
    """
    for word in overrides:
        if "=" not in word or word.partition("=")[0].lstrip("+~") in _OWN_KEYS:
            raise ConfigError("is no override of both stages", word, f"{', '.join(_OWN_KEYS)} are set by the cascade.")
    group = "/".join([dataset, *([name] if name else [])])
    folder = workspace / "plan" / group
    stage = _first_stage(folder, group)
    splits = read_splits(folder / "splits_final.json")
    first_folds = sorted(set(folds_of_cases(splits).values()), key=int)
    if not first_folds:
        what = "there are no folds, and the second stage trains on cases that the first did not see"
        raise DatasetError(what, folder / "splits_final.json", "Make some: plan.py … split.k=2 force=true.")
    values = dict(word.split("=", 1) for word in overrides)
    own_run = values.get("run", "default")
    first_run = values.get("plan.previous_stage_run", own_run)
    both = [word for word in overrides if not word.startswith(("run=", "plan.previous_stage_run="))]
    both += workspace_word(workspace)
    first = [f"plan={group}/{stage}", f"run={first_run}"]
    second = [f"plan={group}/{CONFIGURATION}", f"run={own_run}", f"plan.previous_stage_run={first_run}"]
    return (
        [[*first, f"fold={fold}", *both] for fold in first_folds],
        [[*second, f"fold={fold}", *both] for fold in _folds(folds, len(splits))],
    )


def _first_stage(folder: Path, group: str) -> str:
    path = folder / f"{CONFIGURATION}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("[!_]*.yaml"))
        if not known:
            raise PlanError("is not planned", group, "Run python plan.py dataset=FOLDER first.")
        remedy = f"Planned: {', '.join(known)}. segplan explain plan={group}/{known[0]} says why there is no 3d_lowres."
        raise PlanError(f"has no {CONFIGURATION}", group, remedy)
    return str(OmegaConf.select(OmegaConf.load(path), "plan.previous_stage"))


def _folds(given: str | None, count: int) -> list[str]:
    if given is None:
        return [str(number) for number in range(count)]
    folds = [fold for fold in re.split(r"[,\s]+", given.strip("[] ")) if fold]
    if not folds or not all(fold.isdigit() or fold == "all" for fold in folds):
        raise ConfigError("names no folds", f"folds={given}", "Write folds=0,1 or folds=all.")
    return folds
