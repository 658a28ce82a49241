"""Which planes of a volume to show, in which size and grey window."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LabelArray = NDArray[np.integer[Any]]

_LONGEST_SIDE = 340  # pixels of the longest side of a volume's panels
_LONGEST_SIDE_2D = 480
_LARGEST_COUNTED = 1 << 14
_NAMES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Plane:
    """One plane of a case.

    Args:
        name: which plane, and its index.
        image: (C, H, W).
        reference: (H, W), or None.
        prediction: (H, W).
        pixels: height and width to show it in.
    """

    name: str
    image: NDArray[np.float32]
    reference: LabelArray | None
    prediction: LabelArray
    pixels: tuple[int, int]


def cut_planes(
    image: NDArray[np.float32],
    reference: LabelArray | None,
    prediction: LabelArray,
    spacing: tuple[float, float, float],
) -> list[Plane]:
    """The planes across each axis that show most of the classes; the only one of a 2D image.

    All panels have one scale. Planes that contain axis z are turned so that the last slice is on top.

    Args:
        image: (C, Z, Y, X).
        reference: (Z, Y, X), or None: then the prediction decides.
        prediction: (Z, Y, X).
        spacing: mm along (z, y, x).
    """
    guide = prediction if reference is None else reference
    flat = guide.shape[0] == 1
    shown = (0,) if flat else (0, 1, 2)
    extents = [size * step for size, step in zip(guide.shape, spacing, strict=True)]
    longest = max(extents[1:]) if flat else max(extents)
    scale = (_LONGEST_SIDE_2D if flat else _LONGEST_SIDE) / longest
    planes = []
    for axis in shown:
        index = busiest_slice(guide, axis)
        rest = [other for other in range(3) if other != axis]
        height, width = (max(1, round(extents[other] * scale)) for other in rest)
        name = "" if flat else f"{_NAMES[axis]}, slice {index + 1} of {guide.shape[axis]}"
        channels = image if flat and len(image) == 3 else image[:1]
        cut = None if reference is None else _cut(reference, axis, index)
        planes.append(
            Plane(name, _cut(channels, axis, index), cut, _cut(prediction, axis, index), (height, width)),
        )
    return planes


def busiest_slice(labels: LabelArray, axis: int) -> int:
    """Index of the slice across `axis` that shows most: each class counts by its area relative to its largest slice.

    So a small lesion weighs as much as a large organ. The middle slice where there is no foreground.
    """
    slices = np.moveaxis(labels, axis, 0)
    highest = int(labels.max(initial=0))
    if highest < _LARGEST_COUNTED:  # one look at the voxels, however many classes there are
        areas = np.stack([np.bincount(each.reshape(-1), minlength=highest + 1) for each in slices], axis=1)[1:]
    else:
        areas = np.array([(slices == value).sum(axis=(1, 2)) for value in np.unique(labels[labels != 0])])
    areas = areas[areas.any(axis=1)]
    if not len(areas):
        return int(labels.shape[axis]) // 2
    return int((areas / areas.max(axis=1, keepdims=True)).sum(axis=0).argmax())


def grey_window(channel: NDArray[np.float32], labels: LabelArray, room: float = 0.5) -> tuple[float, float]:
    """Values shown black and white: what the segmented structures need and some room about it, within robust extremes.

    So CT organs are not drowned between air and bone. Without foreground: the 0.5th and 99.5th percentile.

    Args:
        channel: the image.
        labels: of the same shape.
        room: on either side, as a share of the range of values inside the labels.
    """
    low, high = np.percentile(channel, (0.5, 99.5))
    inside = channel[labels != 0]
    if inside.size:
        first, last = np.percentile(inside, (2, 98))
        margin = max(room * (last - first), 0.05 * (high - low))
        low, high = max(low, first - margin), min(high, last + margin)
    return float(low), float(high)


def _cut(array: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """One plane (…, H, W) of an array (…, Z, Y, X); where it contains axis z, the last slice is on top."""
    plane: NDArray[Any] = np.moveaxis(array, axis - 3, 0)[index]
    return plane[..., ::-1, :] if axis else plane
