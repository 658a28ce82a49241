"""`segplan verify-store DATASET|FOLDER`."""

import argparse
from pathlib import Path

HELP = "find any damage in preprocessed data: missing, cut or changed files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("store", help="a dataset's name in the workspace, or a folder of preprocessed cases")
    parser.add_argument("--workspace", type=Path, help="default: $SEGPLAN_WORKSPACE, else ./workspace")
    parser.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")
    parser.add_argument(
        "--remove", action="store_true", help="take damaged cases out, so that plan.py makes them, and only them, again"
    )


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.locations import workspace_folder
    from segplan.jobs.verify_store import run as verify_store

    chosen = workspace_folder([] if options.workspace is None else [f"workspace={options.workspace}"])
    return verify_store(options.store, chosen, options.num_workers, remove=options.remove)
