"""`segplan export-model MODEL_DIR OUT`."""

import argparse
from pathlib import Path

HELP = "hand a model on: as ONNX, as a torch.export program, or as an nnU-Net v2 model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("model", type=Path, help="model folder, e.g. a run folder")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--format", choices=("onnx", "torch", "nnunet"), required=True, help="what to write")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.export_model import run as export_model

    return export_model(options.model, options.out, options.format)
