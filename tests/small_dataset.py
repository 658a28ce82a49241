"""A tiny dataset in nnU-Net's raw layout: noise with two bright boxes; cheap enough for whole jobs in tests."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

LABELS = {"background": 0, "left": 1, "right": 2}


def write_image(path: Path, array: np.ndarray, spacing: Sequence[float]) -> None:
    """Write `array` (z, y, x) with `spacing` (z, y, x) mm."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(value) for value in reversed(spacing)])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def case_arrays(index: int, shape: Sequence[int], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(channels, z, y, x) float32 image and (z, y, x) uint8 labels."""
    rng = np.random.default_rng(index)
    labels = np.zeros(shape, np.uint8)
    z, y, x = (int(rng.integers(1, max(2, size // 4))) for size in shape)
    dz, dy, dx = (max(2, size // 3) for size in shape)
    labels[z : z + dz, y : y + dy, x : x + dx] = 1
    labels[z : z + dz, -y - dy : -y, -x - dx : -x] = 2
    image = rng.normal(0, 10, (channels, *shape)).astype(np.float32) + 50 + 60 * labels
    return image.astype(np.float32), labels


def make_dataset(
    folder: Path,
    cases: int = 6,
    shape: Sequence[int] = (14, 16, 18),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    channels: int = 1,
    ending: str = ".nii.gz",
    classes: int = 2,
) -> Path:
    """Write the dataset into `folder` and return it; with one class both boxes are `left`."""
    for index in range(cases):
        image, labels = case_arrays(index, [size + index % 2 for size in shape], channels)
        for channel in range(channels):
            write_image(folder / "imagesTr" / f"case_{index:02d}_{channel:04d}{ending}", image[channel], spacing)
        write_image(folder / "labelsTr" / f"case_{index:02d}{ending}", np.minimum(labels, classes), spacing)
    description = {
        "channel_names": {str(channel): f"MR{channel}" for channel in range(channels)},
        "labels": {name: value for name, value in LABELS.items() if value <= classes},
        "numTraining": cases,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder
