"""A CT of 512×512×1500 voxels of 0.7×0.7×1 mm with 105 classes in a bounded memory (no nnU-Net).

The network's grid is 1.5 mm and its patch 128³; the network is tiny, for what is measured is the memory around it.
Goal: under 8 GiB in all. Leaves with 1 if it is missed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from inference import INTENSITIES
from large_ct import large_ct
from measure import neutral_environment, print_machine, run_measured

from segplan.model_folder import write_model_json, write_weights
from segplan.networks import PlainUNet

HERE = Path(__file__).resolve().parent
LIMIT_MIB = 8 * 1024
UNIQUE_SLICES = 30


def write_ct(path: Path, slices: int, size: int) -> None:
    """A phantom CT whose slices repeat: they take long to make, and their content does not matter here."""
    unique, _ = large_ct(min(UNIQUE_SLICES, slices), 3, size=size)
    array = np.concatenate([unique] * -(-slices // len(unique)))[:slices]
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.7, 1.0))
    sitk.WriteImage(image, str(path))


def write_model(folder: Path, classes: int, patch: int) -> None:
    """A segplan model of `classes` with the background, with random weights."""
    network = {
        "name": "PlainUNet",
        "input_channels": 1,
        "num_classes": classes,
        "features": [2, 4],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "kernel_sizes": [[3, 3, 3]] * 2,
        "convs_per_stage": 1,
        "convs_per_stage_decoder": 1,
    }
    torch.manual_seed(0)
    built = PlainUNet(**{key: value for key, value in network.items() if key != "name"})
    write_weights(folder, 0, built.state_dict())
    labels = {"background": 0} | {f"organ_{number}": number for number in range(1, classes)}
    intensities = {key: INTENSITIES[key] for key in ("mean", "std", "percentile_00_5", "percentile_99_5")}
    plan = {
        "dataset": "Dataset097_LongCT",
        "configuration": "3d_fullres",
        "channels": ["CT"],
        "labels": labels,
        "regions_class_order": None,
        "file_ending": ".nii.gz",
        "label_ending": ".nii.gz",
        "input_channels": 1,
        "spacing": [1.5, 1.5, 1.5],
        "transpose": [0, 1, 2],
        "normalization": ["ct"],
        "use_mask_for_norm": [False],
        "intensities": [intensities],
    }
    write_model_json(folder, name="LongCT/3d", plan=plan, patch_size=[patch] * 3, network=network, mirror_axes=None)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=1500)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=105, help="with the background")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--step-size", type=float, default=0.5, help="1 is four times faster and takes the same memory")
    parser.add_argument("--scratch", type=Path, help="where temporary files go")
    arguments = parser.parse_args(argv)
    print_machine()
    with tempfile.TemporaryDirectory(prefix="segplan-long-", dir=arguments.scratch) as name:
        scratch = Path(name)
        write_ct(scratch / "ct_0000.nii.gz", arguments.slices, arguments.size)
        write_model(scratch / "model", arguments.classes, arguments.patch)
        words = [scratch / "model", scratch / "out.json", scratch / "out.nii.gz", arguments.precision]
        words += [str(arguments.step_size), "cpu"]
        command = [sys.executable, HERE / "segplan_predict.py", *words, scratch / "ct_0000.nii.gz"]
        environment = neutral_environment(PYTHONPATH=str(HERE.parent))
        cost = run_measured(command, scratch / "log", environment)
        about = json.loads((scratch / "out.json").read_text())
    stages = ", ".join(f"{stage} {value:.1f} s" for stage, value in about["stages"].items())
    print(f"{arguments.size}×{arguments.size}×{arguments.slices}, {arguments.classes} classes, {about['precision']}")
    print(f"peak {cost.peak_mib:.0f} MiB, {cost.wall_s:.0f} s: {stages}")
    for note in about["notes"]:
        print(f"note: {note}")
    return 0 if cost.peak_mib < LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
