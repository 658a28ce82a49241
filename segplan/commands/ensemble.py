"""`segplan ensemble FOLDER FOLDER … OUT`."""

import argparse
from pathlib import Path

HELP = "average the saved probabilities of several predictions; write label maps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("folders", type=Path, nargs="+", help="predictions with probabilities; the last is the output")
    parser.add_argument("--dataset-json", type=Path, help="the labels (default: dataset.json in the first folder)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.ensemble import run as ensemble

    return ensemble(options.folders[:-1], options.folders[-1], options.dataset_json)
