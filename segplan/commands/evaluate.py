"""`segplan evaluate PREDICTION REFERENCE`."""

import argparse
from pathlib import Path

HELP = "compare predicted with reference label maps: summary.json and a table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("prediction", type=Path, help="folder or file")
    parser.add_argument("reference", type=Path, help="folder or file")
    parser.add_argument("--output", type=Path, help="where summary.json goes (default: the prediction folder)")
    parser.add_argument("--label-map", type=Path, help="YAML file {value in the prediction: value in the reference}")
    parser.add_argument(
        "--dataset-json", type=Path, help="label names (default: dataset.json beside the reference folder)"
    )
    parser.add_argument("--metrics", default="", help="beyond Dice and IoU: volume, nsd, hd95, assd, lesions, or all")
    parser.add_argument("--nsd-tolerance", default="2", help="mm (default 2), or by class: liver:3,tumour:1")
    parser.add_argument(
        "--lesion-overlap", type=float, default=0.0, help="share of a lesion that counts as found (default: one voxel)"
    )
    parser.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.evaluate import run as evaluate

    more = {} if options.num_workers is None else {"num_workers": options.num_workers}
    return evaluate(
        options.prediction,
        options.reference,
        options.output,
        options.label_map,
        options.dataset_json,
        metrics=[word.strip() for word in options.metrics.strip("[]").split(",") if word.strip()],
        nsd_tolerance=options.nsd_tolerance,
        lesion_overlap=options.lesion_overlap,
        **more,
    )
