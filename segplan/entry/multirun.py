"""Sweeps: every combination of the values on the command line is a job of its own; one that fails stops no other.

All trainings are composed and checked before the first begins: a plan that is edited meanwhile changes none of them.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from segplan.entry.arguments import quote
from segplan.entry.compose import parse_overrides, search_path
from segplan.entry.environment import child_environment
from segplan.entry.launchers import Local, Slurm, pop_launcher
from segplan.entry.locations import configs_folder
from segplan.entry.processes import run_processes
from segplan.entry.slurm import run_on_slurm
from segplan.entry.sweep_job import SweepJob, SweepJobs
from segplan.errors import ConfigError, SegplanError


def run_sweep(job: str, arguments: list[str], workspace: Path) -> int:
    """Run every combination of the values in `arguments`; returns the highest exit code.

    A line for each job is printed at the end: what it has and the others do not, and how it ended.
    """
    launcher, others = pop_launcher(arguments)
    overrides = parse_overrides(others)
    combinations = _combinations(overrides)
    if job == "train":
        combinations = name_runs(combinations, overrides)
    codes = run_combinations(job, combinations, launcher, workspace)
    print()
    common = set.intersection(*map(set, combinations)) if len(combinations) > 1 else set()
    for words, code in zip(combinations, codes, strict=True):
        print(f"{_ending(code, launcher)}: {' '.join(word for word in words if word not in common)}")
    left_out = isinstance(launcher, Local) and None in codes
    return max(1 if left_out else 0, *(code or 0 for code in codes))


def run_combinations(
    job: str, combinations: Sequence[list[str]], launcher: Local | Slurm, workspace: Path
) -> list[int | None]:
    """Run `job` (plan, train or predict) once with each list of overrides.

    Returns:
        Exit codes in the order of `combinations`; None for those that a signal left out or that run on in a queue.
    """
    devices = launcher.visible() if isinstance(launcher, Local) else []
    codes: list[int | None] = [None] * len(combinations)
    jobs: dict[int, SweepJob] = {}
    sweep = SweepJobs(job, workspace, queue=isinstance(launcher, Slurm))
    for number, words in enumerate(combinations):
        try:
            jobs[number] = sweep.prepare(number, words)
        except SegplanError as error:
            print(f"segplan: {' '.join(words)}: {error}", file=sys.stderr, flush=True)
            codes[number] = error.exit_code
    if not jobs:
        return codes
    if isinstance(launcher, Local):
        ended = run_processes([one.command for one in jobs.values()], devices, child_environment())
    else:
        ended = run_on_slurm(list(jobs.values()), launcher, {"PYTHONPATH": child_environment()["PYTHONPATH"]})
    for (number, one), code in zip(jobs.items(), ended, strict=True):
        codes[number] = code
        if code and (isinstance(launcher, Slurm) or len(devices) > 1):  # else it was printed here
            print(f"segplan: {' '.join(one.words)}: failed ({code}), see {one.command.log}", file=sys.stderr)
            if job != "train":  # whose log goes on from earlier attempts
                print(*_last_words(one.command.log), sep="", end="", file=sys.stderr)
    return codes


def _last_words(log: Path, most: int = 20) -> list[str]:
    """The last lines of a log, without those that say how far it was."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [f"  {line}\n" for line in lines if not line.startswith(("case=", "stage="))][-most:]


def name_runs(combinations: Sequence[list[str]], overrides: Sequence[Override]) -> list[list[str]]:
    """`combinations` of `overrides`, with a `run=` made of what is swept where the jobs would share a folder otherwise.

    Nothing is added where only plans, folds or experiments are swept (experiments name their runs), or the user names
    the runs by a sweep or an interpolation. A plain `run=` becomes the beginning of the name.
    """
    run = next((item for item in reversed(overrides) if item.key_or_group == "run"), None)
    swept = [number for number, item in enumerate(overrides) if item.is_sweep_override()]
    naming = [number for number in swept if overrides[number].key_or_group not in ("plan", "fold")]
    keys = [overrides[number].key_or_group for number in naming]
    if "run" in keys or set(keys) <= {"experiment"} or (run is not None and "${" in str(run.value())):
        return [list(words) for words in combinations]
    last = [key.rpartition(".")[2] for key in keys]
    short = last if len(set(last)) == len(last) else keys
    named = []
    for words in combinations:
        values = [re.sub(r"[^\w.+-]+", "_", words[number].partition("=")[2]).strip("_") for number in naming]
        parts = [f"{key}_{value}" for key, value in zip(short, values, strict=True)]
        name = "-".join([*([] if run is None else [str(run.value())]), *parts])
        named.append([*(word for word in words if not word.startswith("run=")), f"run={quote(name)}"])
    return named


def _combinations(overrides: Sequence[Override]) -> list[list[str]]:
    try:
        [combinations] = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    except (HydraException, NotImplementedError) as error:
        remedy = "Sweep A,B,C, choice(A,B) or range(A,B); interval(A,B) needs hydra/sweeper=optuna."
        raise ConfigError(str(error).splitlines()[0], remedy=remedy) from error
    return [list(words) for words in combinations]


def show_hydra(job: str, arguments: list[str], workspace: Path) -> int:
    """Hand `arguments` to Hydra's own command line, for its own flags (`--info`, `--hydra-help`, shell completion)."""
    sys.argv = [sys.argv[0], *arguments, *([search_path(workspace)] if job == "train" else [])]

    def task(_: DictConfig) -> None:
        """Hydra's flags end before the task."""

    hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name=job)(task)()
    return 0


def _ending(code: int | None, launcher: Local | Slurm) -> str:
    if code is None:
        return "not started" if isinstance(launcher, Local) else "submitted"
    return "done" if code == 0 else f"failed ({code})"
