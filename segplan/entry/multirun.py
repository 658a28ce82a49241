"""Sweeps: every combination of the values on the command line is a job of its own; one that fails stops no other.

All trainings are composed and checked before the first begins: a plan that is edited meanwhile changes none of them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig

from segplan.entry.compose import parse_overrides, search_path
from segplan.entry.environment import child_environment
from segplan.entry.launchers import Local, Slurm, pop_launcher
from segplan.entry.locations import configs_folder
from segplan.entry.processes import run_processes
from segplan.entry.slurm import run_on_slurm
from segplan.entry.sweep_job import SweepJob, SweepJobs
from segplan.errors import SegplanError


def run_sweep(job: str, arguments: list[str], workspace: Path) -> int:
    """Run every combination of the values in `arguments`; returns the highest exit code.

    A line for each job is printed at the end: its overrides and how it ended.
    """
    launcher, others = pop_launcher([argument for argument in arguments if not argument.startswith("-")])
    [combinations] = BasicSweeper.split_arguments(parse_overrides(others), max_batch_size=None)
    codes = run_combinations(job, combinations, launcher, workspace)
    print()
    for words, code in zip(combinations, codes, strict=True):
        print(f"{_ending(code, launcher)}: {' '.join(words)}")
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
    sweep = SweepJobs(job, workspace)
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
    for number, code in zip(jobs, ended, strict=True):
        codes[number] = code
    return codes


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
