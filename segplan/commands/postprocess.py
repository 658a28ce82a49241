"""`segplan postprocess PRED OUT FILE`."""

import argparse
from pathlib import Path

HELP = "apply postprocessing steps to a folder of label maps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("predictions", type=Path, help="folder of label maps")
    parser.add_argument("output", type=Path, help="another folder")
    parser.add_argument("file", type=Path, help="inference.yaml, YAML list of steps, or nnU-Net's postprocessing.json")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.postprocess import run as postprocess

    return postprocess(options.predictions, options.output, options.file)
