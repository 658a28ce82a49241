"""Compare two folders of preprocessed cases voxel by voxel; run by nnU-Net's interpreter, which can read its files.

python preprocessing_difference.py NNUNET_FOLDER SEGPLAN_STORE RESULT.json
"""

import json
import pickle
import sys
from pathlib import Path

import blosc2
import numpy as np


def compare_case(theirs: Path, ours: Path, case: str) -> dict:
    """Differences of one case: image in standard deviations of nnU-Net's channel, labels in voxels."""
    image = np.asarray(blosc2.open(urlpath=str(theirs / f"{case}.b2nd"), mode="r")[...])
    labels = np.asarray(blosc2.open(urlpath=str(theirs / f"{case}_seg.b2nd"), mode="r")[...])[0]
    own_image = np.load(ours / f"{case}.image.npy", mmap_mode="r")
    own_labels = np.load(ours / f"{case}.labels.npy", mmap_mode="r")
    if image.shape != own_image.shape or labels.shape != own_labels.shape:
        return {"case": case, "shapes": [list(image.shape), list(own_image.shape)]}
    worst = 0.0
    for channel, own in zip(image, own_image, strict=True):
        spread = float(channel.std(dtype=np.float64)) or 1.0
        worst = max(worst, float(np.abs(channel - own).max()) / spread)
    places = np.argwhere(labels != own_labels)
    return {
        "case": case,
        "image": worst,
        "voxels": int(labels.size),
        "labels": len(places),
        "places": [[*map(int, place), int(labels[tuple(place)]), int(own_labels[tuple(place)])] for place in places],
        "properties": differing_properties(theirs, ours, case),
    }


def differing_properties(theirs: Path, ours: Path, case: str) -> list[str]:
    """Names of the properties that are not exactly the same, and of the classes whose listed voxels are not."""
    reference = pickle.loads((theirs / f"{case}.pkl").read_bytes())
    description = json.loads((ours / f"{case}.json").read_text())
    own = description["properties"]
    pairs = {
        "spacing": (reference["spacing"], own["spacing"]),
        "shape before cropping": (reference["shape_before_cropping"], own["shape_before_cropping"]),
        "box": (reference["bbox_used_for_cropping"], own["box"]),
        "shape after cropping": (
            reference["shape_after_cropping_and_before_resampling"],
            own["shape_after_cropping"],
        ),
    }
    differing = [name for name, (a, b) in pairs.items() if not np.array_equal(np.array(a), np.array(b))]
    rows = np.load(ours / f"{case}.locations.npy", mmap_mode="r")
    for key, places in reference["class_locations"].items():
        name = "annotated" if isinstance(key, tuple) and -1 in key else str(key)
        start, stop = description["locations"].get(name, (0, 0))
        if not np.array_equal(np.asarray(places).reshape(-1, 4)[:, 1:], rows[start:stop]):
            differing.append(f"locations of {name}")
    return differing


def main(theirs: Path, ours: Path, result: Path) -> None:
    cases = sorted(path.name.removesuffix(".pkl") for path in theirs.glob("*.pkl"))
    own = sorted(path.name.removesuffix(".image.npy") for path in ours.glob("*.image.npy"))
    compared = [compare_case(theirs, ours, case) for case in cases if case in own]
    result.write_text(json.dumps({"cases": compared, "missing": sorted(set(cases) ^ set(own))}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
