"""`segplan convert-folder IMAGES LABELS OUT`."""

import argparse
from pathlib import Path

HELP = "make a dataset in nnU-Net's raw layout of plain folders of images and label maps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("images", type=Path, help="folder of the images")
    parser.add_argument("labels", type=Path, help="folder of the label maps; may be the same")
    parser.add_argument("out", type=Path, help="the dataset folder to make, e.g. Dataset007_Vessels")
    parser.add_argument(
        "--pattern", help="names of the images: '{case}.jpg', '{case}_{channel}.nii.gz', '{case}/t1.mha'"
    )
    parser.add_argument("--label-pattern", help="names of the label maps: '{case}_1stHO.png'")
    parser.add_argument("--channels", help="channel names in order, '[t1, t2]'; with {channel} also '{token: name}'")
    parser.add_argument("--labels", dest="names", help="label values: '{vessel: 255}' (default: those found)")
    parser.add_argument("--test", help="test cases: names with * separated by commas, or a file with one a line")
    parser.add_argument("--skip-unmatched", action="store_true", help="leave files without a partner out")
    parser.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    from segplan.jobs.convert_folder import Options
    from segplan.jobs.convert_folder import run as convert

    chosen = Options(
        options.pattern,
        options.label_pattern,
        options.channels,
        options.names,
        options.test,
        options.skip_unmatched,
    )
    return convert(options.images, options.labels, options.out, chosen, options.num_workers)
