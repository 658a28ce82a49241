"""`segplan import-nnunet SOURCE MODEL_DIR`."""

import argparse
from pathlib import Path

HELP = "turn a trained nnU-Net v2 model into a model folder that predicts the same"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("source", type=Path, help="folder TRAINER__PLANS__CONFIGURATION, folder of results, or zip")
    parser.add_argument("model", type=Path, help="the model folder to make")
    parser.add_argument("--configuration", help="which model, where the source holds several, e.g. 3d_fullres")
    parser.add_argument("--previous", type=Path, help="first stage of a cascade: nnU-Net's or a model folder")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.import_nnunet import run as import_nnunet

    return import_nnunet(options.source, options.model, options.configuration, options.previous)
