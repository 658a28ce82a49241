"""`segplan import-stunet FILE MODEL_DIR`."""

import argparse
from pathlib import Path

HELP = "turn STU-Net's published weights into a model folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("file", type=Path, help="NAME.model, or NAME.pth of the authors' second program")
    parser.add_argument("model", type=Path, help="the model folder to make")
    parser.add_argument("--labels", default=None, help="totalsegmentator, abdomenatlas, or auto: by number of outputs")
    parser.add_argument("--mode", default=None, help="stunet_v1, nnunet, or auto: how the model predicts by default")
    parser.add_argument("--pools", default=None, help="[[2,2,2],…] from stage to stage (default: the plan's)")
    parser.add_argument("--patch-size", default=None, help="[128,128,128] voxels, (z, y, x) (default: the plan's)")
    parser.add_argument("--spacing", default=None, help="[1.5,1.5,1.5] mm, (z, y, x) (default: the plan's)")
    parser.add_argument("--use-plan", default=None, help="false: do not read FILE.pkl, assume the published plan")
    parser.add_argument("--fold", default=None, help="name of the fold in the model folder (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.import_stunet import run as import_stunet

    chosen = ("labels", "mode", "pools", "patch_size", "spacing", "use_plan", "fold")
    given = {key: getattr(options, key) for key in chosen}
    return import_stunet(options.file, options.model, {key: text for key, text in given.items() if text is not None})
