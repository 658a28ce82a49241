"""MetaImage and GIPL through SimpleITK, and what the other modules that use it share."""

import errno
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from segplan.errors import ImageError
from segplan.imaging.image import Geometry, Image, spacing_zyx, with_positive_spacing
from segplan.imaging.storage import atomic_write

_IMAGE_IO = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".gipl": "GiplImageIO"}
ENDINGS = {ending: ending for ending in _IMAGE_IO}
_GIPL_HEADER_BYTES = 256
_LONGEST_HEADER = 1 << 16
_SMALLEST_SHARE = 1 / 1100  # gzip packs no better than 1 in 1032: a file that is smaller cannot hold its voxels
_DAMAGED = "It is damaged or of another format: export or copy it again."


def read_image(path: Path) -> Image:
    """Read one file with the pixel type that it has; 4D files and vector pixels become channels.

    Raises:
        ImageError: the file is truncated, damaged or of no usable kind.
    """
    ending = path.suffix.lower()
    reader = open_file(path, _IMAGE_IO[ending])
    if ending == ".gipl":
        _check_size(path, reader)
    return read_opened(reader, path)


read_labels = read_image


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map (Z, Y, X) of an integer type, compressed where the format can.

    Raises:
        ImageError: the format cannot hold the labels or the orientation.
        StorageError: the disk is full or the folder cannot be written.
    """
    import SimpleITK as sitk  # noqa: N813

    geometry = with_positive_spacing(geometry)
    if path.suffix.lower() == ".gipl" and not np.array_equal(geometry.direction, np.eye(3).ravel()):
        what = "GIPL holds volumes only, and cannot hold the image's orientation"
        raise ImageError(what, path, "Write .nii.gz instead.")
    image = sitk.GetImageFromArray(labels[0] if geometry.dimension == 2 else labels)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    try:
        _write(image, path, labels.nbytes)
    except RuntimeError as error:
        what = f"cannot be written ({_reason(error)})"
        raise ImageError(what, path, "Choose another format, such as .nii.gz.") from error


def open_file(path: Path, image_io: str) -> Any:
    """An ITK reader that has read the header; naming the format saves ITK from trying all of them.

    Raises:
        ImageError: ITK cannot make sense of the header.
    """
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # a screenful of C++ for a header that is a little off
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(error, path) from error
    return reader


def read_opened(reader: Any, path: Path, header: str | None = None) -> Image:
    """The image behind a reader of `open_file`; `header` is for `Geometry.header`."""
    array = read_voxels(reader, path)
    geometry = geometry_of(reader, header)
    return Image(_channels_first(array, path), spacing_zyx(geometry), geometry)


def read_voxels(reader: Any, path: Path) -> np.ndarray:
    """The voxels in ITK's order (z, y, x), (t, z, y, x) and the like, with a last axis of components.

    Raises:
        ImageError: they cannot be read, are too few, or are complex numbers.
    """
    import SimpleITK as sitk  # noqa: N813

    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    values = int(np.prod([int(extent) for extent in size], dtype=object)) * components
    if values * _SMALLEST_SHARE > _stored_bytes(path):
        sizes = "×".join(map(str, size))
        raise ImageError(f"its header announces {sizes} voxels, more than the file can hold", path, _DAMAGED)
    try:
        array: np.ndarray = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _unreadable(error, path) from error
    if np.iscomplexobj(array):
        raise ImageError("the voxels are complex numbers", path, "Save magnitude (or real) values.")
    return array.reshape(*size[::-1], components)


def geometry_of(reader: Any, header: str | None = None) -> Geometry:
    """The spatial part of what ITK says; the fourth axis of a 4D file holds channels."""
    file_dimension = reader.GetDimension()
    dimension = min(3, file_dimension)
    direction = np.array(reader.GetDirection()).reshape(file_dimension, file_dimension)[:dimension, :dimension]
    return Geometry(
        dimension=dimension,
        spacing=tuple(reader.GetSpacing()[:dimension]),
        origin=tuple(reader.GetOrigin()[:dimension]),
        direction=tuple(float(value) for value in direction.ravel()),
        header=header,
    )


def _write(image: Any, path: Path, voxel_bytes: int) -> None:
    import SimpleITK as sitk  # noqa: N813

    ending = path.suffix.lower()
    with atomic_write(path) as temporary:
        # A MetaImage in one file reads well under .mhd too, and needs no second rename.
        written = temporary.with_suffix(".mha") if ending == ".mhd" else temporary
        try:
            sitk.WriteImage(image, str(written), useCompression=True)
            written.replace(temporary)
        finally:
            if written != temporary:
                written.unlink(missing_ok=True)
        if ending == ".gipl" and temporary.stat().st_size < voxel_bytes + _GIPL_HEADER_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # ITK says nothing when a GIPL file is cut short


def _unreadable(error: RuntimeError, path: Path) -> ImageError:
    reason = _reason(error)
    if "orthonormal" in reason:
        remedy = "Its header describes skewed axes: resample it, or mend its qform and sform."
        return ImageError("the direction matrix is not orthonormal", path, remedy)
    if "change spacing" in reason:
        return ImageError("its spacing is zero or no number", path, "Mend the spacing in its header.")
    return ImageError(f"cannot be read ({reason})", path, _DAMAGED)


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, which says what went wrong, but for the errno of some earlier call."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useless = not lines or lines[-1].startswith(("Reason: Success", "Reason: Inappropriate", "sitk::ERROR: Logic"))
    return "its header makes no sense" if useless else lines[-1]


def _stored_bytes(path: Path) -> float:
    """Bytes that the voxels can lie in; infinite where the header points to files that are not simply named."""
    with path.open("rb") as file:
        header = file.read(_LONGEST_HEADER)
    if re.search(rb"^(data ?file:|encoding: *bz)", header, re.MULTILINE | re.IGNORECASE):
        return math.inf
    size = path.stat().st_size
    elsewhere = re.search(rb"^ElementDataFile *= *(.+?)\s*$", header, re.MULTILINE)
    if elsewhere is None or elsewhere[1] == b"LOCAL":
        return size
    data = path.parent / os.fsdecode(elsewhere[1])
    return data.stat().st_size if data.is_file() else math.inf


def _check_size(path: Path, reader: Any) -> None:
    """ITK reads truncated GIPL files silently, and they are never compressed."""
    import SimpleITK as sitk  # noqa: N813

    pixel = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID())
    expected = _GIPL_HEADER_BYTES + int(np.prod(reader.GetSize())) * pixel.GetSizeOfPixelComponent()
    if path.stat().st_size < expected:
        raise ImageError("the file is truncated", path, "Copy or download the file again.")


def _channels_first(array: np.ndarray, path: Path) -> np.ndarray:
    """(C, Z, Y, X) from (Y, X, c), (Z, Y, X, c) or (T, Z, Y, X, 1)."""
    if array.ndim == 3:
        return np.moveaxis(array[None], -1, 0)
    if array.ndim == 4:
        return np.moveaxis(array, -1, 0)
    if array.ndim == 5 and array.shape[-1] == 1:
        return array[..., 0]
    sizes = "×".join(str(extent) for extent in array.shape)
    raise ImageError(f"an array of {sizes} is neither 2D, 3D nor 3D with channels", path, "Save one file a channel.")
