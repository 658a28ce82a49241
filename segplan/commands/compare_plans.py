"""`segplan compare-plans A B`."""

import argparse
from pathlib import Path

HELP = "show the values in which two plans differ, with both reasons"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("first", help="DATASET/CONFIGURATION, DATASET/NAME/CONFIGURATION, or a plan's file")
    parser.add_argument("second", help="the other one")
    parser.add_argument("--workspace", default=None, help="default $SEGPLAN_WORKSPACE, else ./workspace")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.locations import workspace_folder
    from segplan.entry.plan_files import read_side
    from segplan.jobs.compare_plans import run as compare

    workspace: Path = workspace_folder([f"workspace={options.workspace}"] if options.workspace else [])
    return compare(read_side(options.first, workspace), read_side(options.second, workspace))
