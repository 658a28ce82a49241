"""`segplan inspect DATASET`."""

import argparse
from pathlib import Path

HELP = "look at a raw dataset: one HTML page with sizes, intensities, labels, pictures and every problem"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("dataset", type=Path, help="folder in nnU-Net's raw layout")
    parser.add_argument("--output", type=Path, help="the page to write (default: DATASET_inspect.html here)")
    parser.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.inspect import run as inspect

    return inspect(options.dataset, options.output, options.num_workers)
