"""`segplan doctor`."""

import argparse
from pathlib import Path

HELP = "check this machine and installation, and say what to mend"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("--workspace", type=Path, default=None, help="folder whose disk is looked at")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.locations import workspace_folder
    from segplan.jobs.doctor import run as doctor

    return doctor(workspace_folder([f"workspace={options.workspace}"] if options.workspace else []))
