"""The box of each value of a label map: what is asked of one class is then looked at there alone."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST_VALUE = 1 << 16
_SLAB_VOXELS = 1 << 24  # a slab's working memory is that of the slab, or eight times that for odd values

Box = tuple[slice, slice, slice]


def label_boxes(labels: NDArray[np.integer[Any]], slab_voxels: int = _SLAB_VOXELS) -> dict[int, Box]:
    """The box of each foreground value.

    Args:
        labels: label map (Z, Y, X), which may be a memory map: slabs of it are read one after another.
        slab_voxels: how much is looked at in one go.
    """
    found: dict[int, Box] = {}
    for start, end in slabs(labels.shape, slab_voxels):
        for value, (z, y, x) in _boxes(np.asarray(labels[start:end])):
            box = slice(z.start + start, z.stop + start), y, x
            found[value] = _join([found[value], box]) if value in found else box
    return found


def common_box(members: Iterable[int], boxes: Iterable[Mapping[int, Box]]) -> Box | None:
    """The box around all members in all label maps; None where there is none of them."""
    known = list(boxes)
    found = [each[value] for value in members for each in known if value in each]
    return _join(found) if found else None


def slabs(shape: tuple[int, ...], slab_voxels: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) slice of each slab of at most so many voxels, of an image (Z, Y, X)."""
    depth = max(1, slab_voxels // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], depth):
        yield start, min(start + depth, shape[0])


def _boxes(labels: NDArray[np.integer[Any]]) -> list[tuple[int, Box]]:
    from scipy import ndimage

    objects: list[Any]
    if labels.size and int(labels.min()) >= 0 and int(labels.max()) < _LARGEST_VALUE:
        objects = ndimage.find_objects(labels if labels.dtype.itemsize < 8 else labels.astype(np.int32))
        return [(value, box) for value, box in enumerate(objects, 1) if box is not None]
    values, numbers = np.unique(labels, return_inverse=True)
    objects = ndimage.find_objects(numbers.reshape(labels.shape) + 1)
    return [(int(value), box) for value, box in zip(values, objects, strict=True) if value != 0]


def _join(boxes: list[Box]) -> Box:
    sides = [slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)]
    return sides[0], sides[1], sides[2]
