"""Sweeps: one job after another, each in a process of its own; one that fails does not stop the others."""

import subprocess
import sys
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig

from segplan.entry.arguments import quote
from segplan.entry.compose import parse_overrides, search_path
from segplan.entry.environment import child_environment
from segplan.entry.locations import configs_folder


def run_sweep(job: str, arguments: list[str], workspace: Path) -> int:
    """Run every combination of the values in `arguments`; returns the highest exit code.

    A line for each job is printed at the end: its overrides and how it ended.
    """
    overrides = parse_overrides([argument for argument in arguments if not argument.startswith("-")])
    [combinations] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    results = [(words, _run_one(job, words, workspace)) for words in combinations]
    print()
    for words, code in results:
        print(f"{'done' if code == 0 else f'failed ({code})'}: {' '.join(words)}")
    return max(code for _, code in results)


def show_hydra(job: str, arguments: list[str], workspace: Path) -> int:
    """Hand `arguments` to Hydra's own command line, for its own flags (`--info`, `--hydra-help`, shell completion)."""
    sys.argv = [sys.argv[0], *arguments, *([search_path(workspace)] if job == "train" else [])]

    def task(_: DictConfig) -> None:
        """Hydra's flags end before the task."""

    hydra.main(version_base="1.3", config_path=str(configs_folder()), config_name=job)(task)()
    return 0


def _run_one(job: str, overrides: list[str], workspace: Path) -> int:
    print(f"\n{job} {' '.join(overrides)}", flush=True)
    others = [word for word in overrides if word.partition("=")[0] != "workspace"]
    command = [sys.executable, "-m", "segplan.cli", job, *others, f"workspace={quote(str(workspace))}"]
    return subprocess.call(command, env=child_environment())
