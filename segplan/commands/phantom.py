"""`segplan phantom FOLDER`."""

import argparse
from pathlib import Path

HELP = "make a synthetic dataset in nnU-Net's raw layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("out", type=Path, help="the dataset folder to make, e.g. Dataset900_Phantom")
    parser.add_argument("--kind", choices=("ct", "mr", "rgb"), default="ct")
    parser.add_argument("--cases", type=int, default=20, help="training cases")
    parser.add_argument("--test-cases", type=int, default=0, help="further cases, in imagesTs and labelsTs")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.phantom import run as make

    return make(options.out, options.kind, options.cases, options.seed, options.test_cases)
