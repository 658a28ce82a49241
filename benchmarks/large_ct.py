"""A synthetic abdominal CT of clinical size, as a raw dataset: 512×512 pixels of 0.7 mm, slices of 1.5 mm.

The phantom of `segplan phantom` is small and hard to segment; this one is large and quick to make. It has what
preprocessing depends on: air around a body, correlated noise, and organs in any number.
"""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

SIZE = 512
SPACING_XYZ = (0.7, 0.7, 1.5)
ENDING = ".nii.gz"
AIR_HU, TISSUE_HU, NOISE_HU = -1024, 40, 25


def large_ct(slices: int, classes: int, seed: int = 0, size: int = SIZE) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A CT in HU and its label map, both (Z, Y, X): `classes` ellipsoids in an elliptic body.

    Args:
        slices: Z.
        classes: organs; each has its own intensity.
        seed: decides everything.
        size: Y and X.
    """
    random = np.random.default_rng(seed)
    labels = np.zeros((slices, size, size), dtype=np.uint8)
    # Organs lie on a jittered grid, so that all of them are there whatever their number.
    columns = int(np.ceil(np.sqrt(classes)))
    for label in range(1, classes + 1):
        row, column = divmod(label - 1, columns)
        y, x = (size * (0.22 + 0.56 * (place + random.uniform(0.3, 0.7)) / columns) for place in (row, column))
        radius = 0.24 * size / columns * random.uniform(0.7, 1.2)
        _paint(labels, label, (random.uniform(0.3, 0.7) * slices, y, x), (0.25 * slices + 2, radius, 0.8 * radius))
    y, x = np.ogrid[:size, :size]
    body = ((y - size / 2) / (0.38 * size)) ** 2 + ((x - size / 2) / (0.46 * size)) ** 2 < 1
    contrast = np.concatenate([[0], random.uniform(-80, 160, classes)]).astype(np.float32)
    image = np.empty(labels.shape, dtype=np.int16)
    for plane, label in zip(image, labels, strict=True):
        noise = ndimage.gaussian_filter(random.standard_normal((size, size), dtype=np.float32), 0.8)
        tissue = TISSUE_HU + contrast[label] + NOISE_HU / 0.35 * noise
        plane[...] = np.where(body, tissue, AIR_HU + 4 * noise)
    return image, labels


def write_large_ct(folder: Path, slices: int, classes: int, cases: int = 1, size: int = SIZE) -> Path:
    """Write a raw dataset of such CTs at `folder` (DatasetNNN_Name) and return it, unless it is there."""
    if (folder / "dataset.json").is_file():
        return folder
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        image, labels = large_ct(slices, classes, number, size)
        _write(image, folder / "imagesTr" / f"ct_{number}_0000{ENDING}")
        _write(labels, folder / "labelsTr" / f"ct_{number}{ENDING}")
    names = {"background": 0, **{f"organ_{label:02d}": label for label in range(1, classes + 1)}}
    description = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": cases, "file_ending": ENDING}
    (folder / "dataset.json").write_text(json.dumps(description, indent=2))
    return folder


def _paint(labels: NDArray[np.uint8], value: int, centre: tuple[float, ...], radii: tuple[float, ...]) -> None:
    """Set an ellipsoid to `value`; only its box is looked at."""
    low = [max(0, int(c - r)) for c, r in zip(centre, radii, strict=True)]
    high = [min(n, int(c + r) + 2) for c, r, n in zip(centre, radii, labels.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes = np.ogrid[box]
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    labels[box][distance < 1] = value


def _write(array: NDArray[np.integer], path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_XYZ)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
