"""`segplan convert-msd SOURCE OUT`."""

import argparse
from pathlib import Path

HELP = "make a dataset in nnU-Net's raw layout of a task of the Medical Segmentation Decathlon"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("source", type=Path, help="the task's folder, such as Task04_Hippocampus")
    parser.add_argument("out", type=Path, help="folder in which Dataset004_Hippocampus is made, or that folder itself")
    parser.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.convert_msd import run as convert

    return convert(options.source, options.out, options.num_workers)
