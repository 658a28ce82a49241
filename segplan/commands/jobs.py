"""`segplan jobs DATASET`."""

import argparse

HELP = "which folds of a dataset are done, running, failed, stopped or missing, and what to launch next"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument(
        "dataset", help="the dataset's name, as the folders in workspace/plan and workspace/runs have it"
    )
    parser.add_argument("--workspace", default=None, help="default $SEGPLAN_WORKSPACE, else ./workspace")
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    import functools

    from segplan.entry.locations import workspace_folder
    from segplan.jobs.jobs_table import run as jobs

    workspace = workspace_folder([f"workspace={options.workspace}"] if options.workspace else [])
    return jobs(workspace, options.dataset, functools.partial(_compose, workspace=workspace), as_json=options.json)


def _compose(plan: str, workspace: object) -> dict[str, object]:
    from pathlib import Path

    from segplan.entry.compose import compose_training  # Hydra takes half a second: only where a fold is missing

    return compose_training(plan, Path(str(workspace)))
