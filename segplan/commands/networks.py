"""`segplan networks plan=DATASET/CONFIGURATION`."""

import argparse

HELP = "parameters, operations, memory and receptive field of a plan's network and the alternatives"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("--plan", required=True, help="DATASET/CONFIGURATION or DATASET/NAME/CONFIGURATION")
    parser.add_argument("--workspace", default=None, help="default $SEGPLAN_WORKSPACE, else ./workspace")
    parser.add_argument("override", nargs="*", help="overrides as for training, e.g. data.patch_size=[96,96,96]")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from omegaconf import OmegaConf

    from segplan.entry.arguments import quote
    from segplan.entry.compose import compose_job
    from segplan.entry.locations import workspace_folder

    workspace = workspace_folder([f"workspace={options.workspace}"] if options.workspace else [])
    config = compose_job("train", [f"plan={quote(options.plan)}", *options.override], workspace)
    from segplan.jobs.networks import run as networks

    plain = OmegaConf.to_container(config, resolve=True)
    return networks({str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {})
