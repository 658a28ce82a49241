"""`segplan reproduce RUN`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

HELP = "train a run again, in a folder of its own, and compare versions, data, weights and scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="the run's folder, or that of one of its folds")
    parser.add_argument("--name", default=None, help="the new run's name (default: RUN-again)")
    parser.add_argument("--workspace", type=Path, default=None, help="where plans and data stand (default: RUN's)")
    parser.add_argument("--check", action="store_true", help="only compare versions, plan and data; train nothing")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.reproduce import run as reproduce

    return reproduce(options.run_folder, options.name, options.workspace, train=None if options.check else _train)


def _train(command: Sequence[str]) -> int:
    from segplan.entry.environment import child_environment
    from segplan.entry.processes import run_process

    return run_process(command, child_environment())
