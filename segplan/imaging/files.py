"""Reading and writing images by their file ending.

A new format is one module with ENDINGS, read_image, read_labels and write_labels, named in `_FORMATS`.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from segplan.errors import ImageError
from segplan.imaging import natural, simpleitk
from segplan.imaging.image import Geometry, Image, corner_shift

_FORMATS: tuple[ModuleType, ...] = (simpleitk, natural)
IMAGE_ENDINGS: tuple[str, ...] = tuple(ending for module in _FORMATS for ending in module.ENDINGS)
_LARGEST_SHIFT = 0.5  # voxels between channels: beyond it, voxels of the same index cover mostly different tissue
_LARGEST_LABEL = 2**31


def split_ending(name: str) -> tuple[str, str]:
    """Split "case_0000.nii.gz" into "case_0000" and ".nii.gz"; capital letters do not matter.

    Raises:
        ImageError: no known image format has that ending.
    """
    lowered = name.lower()
    for ending in IMAGE_ENDINGS:
        if lowered.endswith(ending):
            return name[: -len(ending)], name[-len(ending) :]
    raise ImageError("the ending is of no known image format", name, f"Known are {', '.join(IMAGE_ENDINGS)}.")


def read_image(paths: Sequence[Path]) -> Image:
    """Read the channel files of one case; a colour picture or 4D file brings several channels by itself.

    Args:
        paths: one file a channel, in the order of the channels.

    Returns:
        The image, array (C, Z, Y, X) float32, with the geometry of the first file. Values are not checked: NaN stays.

    Raises:
        ImageError: a file cannot be read, or the files are not on one grid.
    """
    if not paths:
        raise ImageError("no image file was given", None, "Name at least one file.")
    images = [_format_of(path).read_image(path) for path in paths]
    first: Image = images[0]
    for path, image in zip(paths[1:], images[1:], strict=True):
        _check_same_grid(paths[0], first, path, image)
    array = np.empty((sum(len(image.array) for image in images), *first.array.shape[1:]), dtype=np.float32)
    np.concatenate([image.array for image in images], out=array, casting="unsafe")
    return Image(array, first.spacing, first.geometry)


def read_label_map(path: Path) -> Image:
    """Read a label map.

    Returns:
        The label map, array (1, Z, Y, X) of the smallest integer type that holds it.

    Raises:
        ImageError: the file cannot be read, has several channels, or values that are not whole numbers.
    """
    image: Image = _format_of(path).read_labels(path)
    if len(image.array) != 1:
        what = f"a label map has one channel, this file has {len(image.array)}"
        raise ImageError(what, path, "Save one number a voxel.")
    return Image(_as_integers(image.array, path), image.spacing, image.geometry)


def write_label_map(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map in the format of the path's ending, with the smallest integer type; whole or not at all.

    Args:
        path: the file to write.
        labels: (Z, Y, X), integers.
        geometry: of the image that was segmented; written as it was read.

    Raises:
        ImageError: the format cannot hold the labels.
        StorageError: the disk is full or the folder cannot be written.
    """
    if labels.ndim != 3 or labels.dtype.kind not in "iub":
        raise ValueError(f"labels must be a (Z, Y, X) array of integers, got {labels.dtype} of shape {labels.shape}")
    if geometry.dimension == 2 and labels.shape[0] != 1:
        raise ValueError(f"a 2D geometry holds one slice, got labels of shape {labels.shape}")
    _format_of(path).write_labels(path, _as_smallest(labels), geometry)


def _format_of(path: Path) -> ModuleType:
    ending = split_ending(path.name)[1].lower()
    return next(module for module in _FORMATS if ending in module.ENDINGS)


def _check_same_grid(first_path: Path, first: Image, path: Path, image: Image) -> None:
    other = first_path.name
    if image.array.shape[1:] != first.array.shape[1:]:
        what = f"its size {_times(image.array.shape[1:])} differs from {_times(first.array.shape[1:])} of {other}"
    elif not np.allclose(image.spacing, first.spacing):
        what = f"its spacing {_times(image.spacing)} differs from {_times(first.spacing)} of {other}"
    else:
        shift = corner_shift(first.geometry, image.geometry, first.array.shape[:0:-1])
        if shift <= _LARGEST_SHIFT:
            return
        what = f"its origin or direction places it {shift:.1f} voxels away from {other}"
    raise ImageError(what, path, "Register or resample the channels of a case to one grid.")


def _times(values: Sequence[float]) -> str:
    return "×".join(f"{value:g}" for value in values)


def _as_integers(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind == "f":
        whole = np.isfinite(array)
        whole &= np.where(whole, array, 0) == np.rint(np.where(whole, array, 0))
        if not whole.all():
            count = array.size - int(np.count_nonzero(whole))
            example = array[~whole].flat[0]
            what = f"{count} voxels are not whole numbers (such as {example:g})"
            raise ImageError(what, path, "Labels must be integers: round them, or resample with nearest neighbour.")
        if array.size and max(-float(array.min()), float(array.max())) >= _LARGEST_LABEL:
            raise ImageError(f"the label {array.max():g} is too large", path, "Number the labels 0, 1, 2, …")
        array = array.astype(np.int64)
    return _as_smallest(array)


def _as_smallest(labels: np.ndarray) -> np.ndarray:
    """The labels with the smallest integer type, unsigned where no label is negative; always native, C order."""
    if labels.dtype in (np.uint8, np.bool_) or not labels.size:
        return np.ascontiguousarray(labels, dtype=np.uint8)
    low, high = int(labels.min()), int(labels.max())
    kinds = (np.uint8, np.uint16, np.uint32, np.uint64) if low >= 0 else (np.int8, np.int16, np.int32, np.int64)
    kind = next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return np.ascontiguousarray(labels, dtype=kind)
