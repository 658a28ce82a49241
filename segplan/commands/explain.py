"""`segplan explain plan=DATASET/CONFIGURATION`."""

import argparse
from pathlib import Path

HELP = "say how each value of a plan came about, from the files of the workspace alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("--plan", required=True, help="DATASET/CONFIGURATION or DATASET/NAME/CONFIGURATION")
    parser.add_argument("--workspace", default=None, help="default $SEGPLAN_WORKSPACE, else ./workspace")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.compose import compose_training
    from segplan.entry.locations import workspace_folder
    from segplan.jobs.explain import run as explain

    workspace: Path = workspace_folder([f"workspace={options.workspace}"] if options.workspace else [])
    folder = (workspace / "plan" / options.plan).parent
    return explain(compose_training(options.plan, workspace), folder, options.plan)
