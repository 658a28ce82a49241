"""`segplan show-augmentation plan=DATASET/CONFIGURATION n=12`."""

import argparse
from pathlib import Path

HELP = "a picture of augmented training patches, with label outlines and the parameters of each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="plan=DATASET/CONFIGURATION, and any override of train.py: seed=1 augmentation.gamma.probability=1 …",
    )
    parser.add_argument("--n", type=int, default=12, help="how many patches (default: 12)")
    parser.add_argument("--output", type=Path, help="the PNG to write (default: beside the plan)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.arguments import quote_paths
    from segplan.entry.compose import compose_job
    from segplan.entry.locations import planned, workspace_folder
    from segplan.errors import ConfigError
    from segplan.jobs.show_augmentation import run as show

    workspace = workspace_folder(options.overrides)
    plans = planned(workspace)
    if not any(override.partition("=")[0] == "plan" for override in options.overrides):
        remedy = f"Planned: {', '.join(plans)}." if plans else "Run python plan.py dataset=FOLDER first."
        raise ConfigError("plan= is missing: say what to show, plan=DATASET/CONFIGURATION", remedy=remedy)
    return show(compose_job("train", quote_paths(options.overrides, plans), workspace), options.n, options.output)
