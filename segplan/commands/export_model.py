"""`segplan export-model MODEL OUT`."""

import argparse
from pathlib import Path

HELP = "hand a model on: as one zip with checksums, as ONNX, as a torch.export program, or as an nnU-Net v2 model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument(
        "model", type=Path, help="model folder (a run folder, say), a model's zip, or a selection's .yaml"
    )
    parser.add_argument("out", type=Path, help="the FILE.zip or the folder to make")
    parser.add_argument(
        "--format",
        choices=("zip", "onnx", "torch", "nnunet"),
        help="what to write (default: zip where OUT ends in .zip)",
    )
    parser.add_argument("--folds", help="the folds of a zip: 0 or [0,1,2]; default: all that have weights")
    parser.add_argument("--network-target", help="import path of the network's class, where it is none of segplan's")
    parser.add_argument("--force", choices=("true", "false"), default="false", help="true: replace a zip")
    parser.add_argument(
        "--workspace", help="of a .yaml: where its plans were trained (default $SEGPLAN_WORKSPACE, else ./workspace)"
    )


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.entry.locations import workspace_folder
    from segplan.jobs.export_model import run as export_model

    folds = None if options.folds is None else [fold.strip() for fold in options.folds.strip("[]").split(",")]
    return export_model(
        options.model,
        options.out,
        options.format,
        folds=folds,
        network_target=options.network_target,
        force=options.force == "true",
        workspace=workspace_folder([f"workspace={options.workspace}"] if options.workspace else []),
    )
