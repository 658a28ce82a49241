"""Reading and writing images by their file ending.

A new format is one module that has what `Format` lists, named in `_FORMATS`: docs/formats.md shows one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from segplan.errors import ImageError
from segplan.imaging import dicom, natural, nifti, nrrd, simpleitk, tiff
from segplan.imaging.image import Geometry, Image, corner_shift, is_orthonormal


class Format(Protocol):
    """What the module of a format has. Its imports of a decoder stand inside the functions: most runs use one format.

    The functions need not check that the file is there, that its grid makes sense, or that labels are whole numbers of
    the smallest type: `read_image`, `read_label_map` and `write_label_map` here do that for all formats.
    """

    @property
    def ENDINGS(self) -> Mapping[str, str]:  # noqa: N802
        """The endings that it reads, lower case with the dot, each with the ending for label maps of such images."""

    def read_image(self, path: Path, /) -> Image:
        """The image, (C, Z, Y, X) of the stored type, or `ImageError`; labels are read by `read_labels`."""

    def read_labels(self, path: Path, /) -> Image:
        """The label map, (1, Z, Y, X) of any real type, or `ImageError`."""

    def write_labels(self, path: Path, labels: np.ndarray, geometry: Geometry, /) -> None:
        """Write labels (Z, Y, X), C order, by `atomic_write`; `ImageError` for what the format cannot hold exactly."""


_FORMATS: tuple[Format, ...] = (nifti, nrrd, simpleitk, natural, tiff, dicom)
IMAGE_ENDINGS: tuple[str, ...] = tuple(ending for module in _FORMATS for ending in module.ENDINGS)
_LARGEST_SHIFT = 0.5  # voxels between channels: beyond it, voxels of the same index cover mostly different tissue
_LARGEST_FLOAT_LABEL = 2**31


def split_ending(name: str) -> tuple[str, str]:
    """Split "case_0000.nii.gz" into "case_0000" and ".nii.gz"; capital letters do not matter.

    Raises:
        ImageError: no known image format has that ending.
    """
    ending = _known_ending(name)
    if ending is None:
        pair = name.lower().endswith((".hdr", ".img"))
        remedy = "Convert the pair of .hdr and .img to .nii.gz." if pair else f"Known are {', '.join(IMAGE_ENDINGS)}."
        raise ImageError("the ending is of no known image format", name, remedy)
    return name[: -len(ending)], name[-len(ending) :]


def label_ending_for(image: Path | str) -> str:
    """The ending that the label map of an image gets: the image's own, but .png for JPEG and .nii.gz for DICOM."""
    name = Path(image).name
    ending = _known_ending(name)
    if ending is None:  # a folder or file of DICOM
        return dicom.ENDINGS[".dcm"]
    written = _module_of(ending).ENDINGS[ending]
    return name[-len(ending) :] if written == ending else written


def read_image(paths: Sequence[Path]) -> Image:
    """Read the channel files of one case; a colour picture or 4D file brings several channels by itself.

    Args:
        paths: one file a channel (or a folder, for DICOM), in the order of the channels.

    Returns:
        The image, array (C, Z, Y, X) float32, with the geometry of the first file. Values are not checked: NaN stays.

    Raises:
        ImageError: a file cannot be read, or the files are not on one grid.
    """
    if not paths:
        raise ImageError("no image file was given", None, "Name at least one file.")
    images = [_usable(_format_of(path).read_image(path), path) for path in paths]
    first = images[0]
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
    image = _usable(_format_of(path).read_labels(path), path)
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
        ImageError: the format cannot hold the labels or the geometry.
        StorageError: the disk is full or the folder cannot be written.
    """
    if labels.ndim != 3 or labels.dtype.kind not in "iub":
        raise ValueError(f"labels must be a (Z, Y, X) array of integers, got {labels.dtype} of shape {labels.shape}")
    if geometry.dimension == 2 and labels.shape[0] != 1:
        raise ValueError(f"a 2D geometry holds one slice, got labels of shape {labels.shape}")
    ending = split_ending(path.name)[1].lower()
    _module_of(ending).write_labels(path, _as_smallest(labels), geometry)


def write_map(path: Path, values: np.ndarray, geometry: Geometry) -> None:
    """Write a map (Z, Y, X) of real numbers as float32 NIfTI, in the geometry of the image that it belongs to.

    Raises:
        ImageError: the path ends in neither .nii nor .nii.gz.
        StorageError: the disk is full or the folder cannot be written.
    """
    if not path.name.lower().endswith(tuple(nifti.ENDINGS)):
        raise ImageError("maps are written as NIfTI", path, "Choose a name that ends in .nii.gz.")
    nifti.write_labels(path, np.ascontiguousarray(values, dtype=np.float32), geometry)


def _known_ending(name: str) -> str | None:
    lowered = name.lower()
    return next((ending for ending in IMAGE_ENDINGS if lowered.endswith(ending)), None)


def _module_of(ending: str) -> Format:
    return next(module for module in _FORMATS if ending in module.ENDINGS)


def _format_of(path: Path) -> Format:
    """The module that reads a path; DICOM is also known by its content, because scanners give it no ending."""
    ending = _known_ending(path.name)
    if ending is None and dicom.is_dicom(path):
        return dicom
    module = _module_of(split_ending(path.name)[1].lower())
    if path.is_dir() and module is not dicom:
        raise ImageError("it is a folder, not a file", path, "Name the image file itself.")
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise ImageError("there is no such file", path, "Check the path.") from error
    except OSError as error:
        raise ImageError(f"cannot be opened ({error.strerror})", path, "Check the path and its permissions.") from error
    if size == 0:
        raise ImageError("the file is empty", path, "Copy or download the file again.")
    return module


def _usable(image: Image, path: Path) -> Image:
    """The image, unless it has no voxel or its grid is none."""
    spacing = image.geometry.spacing
    if not image.array.size:
        raise ImageError(f"it has no voxels (size {_times(image.array.shape[1:])})", path, "Export it again.")
    if not all(np.isfinite(spacing)) or not all(spacing):
        raise ImageError(f"its spacing is {_times(spacing)}", path, "Mend the spacing in its header.")
    if not all(np.isfinite(image.geometry.origin)):
        raise ImageError(f"its origin is {_times(image.geometry.origin)}", path, "Mend the origin in its header.")
    if not is_orthonormal(image.geometry):
        remedy = "Its header describes skewed axes: resample it, or mend its header."
        raise ImageError("the direction matrix is not orthonormal", path, remedy)
    return image


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
        if array.size and max(-float(array.min()), float(array.max())) >= _LARGEST_FLOAT_LABEL:
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
