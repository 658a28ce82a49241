"""Medical image formats through SimpleITK: NIfTI, NRRD, MetaImage, GIPL."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from segplan.errors import ImageError
from segplan.imaging import nifti
from segplan.imaging.image import Geometry, Image
from segplan.imaging.storage import atomic_write

_IMAGE_IO = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".gipl": "GiplImageIO",
}
ENDINGS = tuple(_IMAGE_IO)
_GIPL_HEADER_BYTES = 256
_FLAT_SPACING = 999.0  # nnU-Net 2.8.1: the slice distance of 2D data is 999 times the larger pixel size


def read_image(path: Path) -> Image:
    """Read one file with the pixel type that it has; 4D files and vector pixels become channels.

    Raises:
        ImageError: the file is missing, truncated, damaged or of no usable kind.
    """
    ending = _ending(path)
    content = nifti.read_content(path) if ending in nifti.ENDINGS else None
    reader = _open(path, ending)
    voxels = None
    if content is not None:
        voxels = nifti.decode_voxels(content, path)
    elif ending == ".gipl":
        _check_size(path, reader)
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if voxels is None or components > 1 or voxels.size != np.prod(size):
        voxels = _execute(reader, path)
    array = _channels_first(voxels.reshape(*size[::-1], components), path)
    geometry = _geometry(reader, None if content is None else nifti.orientation_fields(content))
    return Image(array, _spacing_zyx(geometry), geometry)


read_labels = read_image


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map (Z, Y, X) of an integer type, compressed where the format can.

    Raises:
        ImageError: ITK cannot write it.
        StorageError: the disk is full or the folder cannot be written.
    """
    if _ending(path) in nifti.ENDINGS:
        nifti.write_labels(path, labels, geometry)
        return
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(labels[0] if geometry.dimension == 2 else labels)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    try:
        _write(image, path, labels.nbytes)
    except RuntimeError as error:
        what = f"cannot be written ({_reason(error)})"
        raise ImageError(what, path, "Choose another format, such as .nii.gz.") from error


def _write(image: Any, path: Path, voxel_bytes: int) -> None:
    import SimpleITK as sitk  # noqa: N813

    with atomic_write(path) as temporary:
        # A MetaImage in one file reads well under .mhd too, and needs no second rename.
        written = temporary.with_suffix(".mha") if _ending(path) == ".mhd" else temporary
        try:
            sitk.WriteImage(image, str(written), useCompression=True)
            written.replace(temporary)
        finally:
            if written != temporary:
                written.unlink(missing_ok=True)
        if _ending(path) == ".gipl" and temporary.stat().st_size < voxel_bytes + _GIPL_HEADER_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # ITK says nothing when a GIPL file is cut short


def _ending(path: Path) -> str:
    name = path.name.lower()
    return next(ending for ending in ENDINGS if name.endswith(ending))


def _open(path: Path, ending: str) -> Any:
    """An ITK reader that has read the header; naming the format saves ITK from trying all of them."""
    import SimpleITK as sitk  # noqa: N813

    if not path.is_file():
        raise ImageError("there is no such file", path, "Check the path.")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_IMAGE_IO[ending])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(error, path) from error
    return reader


def _execute(reader: Any, path: Path) -> np.ndarray:
    import SimpleITK as sitk  # noqa: N813

    try:
        array: np.ndarray = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _unreadable(error, path) from error
    if np.iscomplexobj(array):
        raise ImageError("the voxels are complex numbers", path, "Save magnitude (or real) values.")
    return array


def _unreadable(error: RuntimeError, path: Path) -> ImageError:
    reason = _reason(error)
    if "orthonormal" in reason:
        remedy = "Its header describes skewed axes: resample it, or mend its qform and sform."
        return ImageError("the direction matrix is not orthonormal", path, remedy)
    return ImageError(
        f"cannot be read ({reason})", path, "It is damaged or of another format: export or copy it again."
    )


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, which says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "ITK gives no reason"


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


def _geometry(reader: Any, nifti_fields: str | None) -> Geometry:
    """The spatial part of what ITK says; the fourth axis of a 4D file holds channels."""
    file_dimension = reader.GetDimension()
    dimension = min(3, file_dimension)
    direction = np.array(reader.GetDirection()).reshape(file_dimension, file_dimension)[:dimension, :dimension]
    return Geometry(
        dimension=dimension,
        spacing=tuple(reader.GetSpacing()[:dimension]),
        origin=tuple(reader.GetOrigin()[:dimension]),
        direction=tuple(float(value) for value in direction.ravel()),
        nifti=nifti_fields,
    )


def _spacing_zyx(geometry: Geometry) -> tuple[float, float, float]:
    spacing = [abs(value) for value in reversed(geometry.spacing)]
    if geometry.dimension == 2:
        return (_FLAT_SPACING * max(spacing), spacing[0], spacing[1])
    return (spacing[0], spacing[1], spacing[2])
