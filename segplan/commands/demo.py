"""`segplan demo [FOLDER]`."""

import argparse
from pathlib import Path

HELP = "the main job end to end on a phantom: plan, train, predict, evaluate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("out", type=Path, nargs="?", default=Path("demo"), help="folder for all that it makes")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.demo import run as demo

    return demo(options.out)
