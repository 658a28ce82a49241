"""`segplan verify DATASET`."""

import argparse
from pathlib import Path

HELP = "report every problem of every case of a raw dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("dataset", type=Path, help="folder in nnU-Net's raw layout")
    parser.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.inspection import verify

    return verify(options.dataset, options.num_workers)
