"""Images as a program holds them (arrays, SimpleITK's, nibabel's, paths), and label maps of the same kind."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import ImageError
from segplan.imaging import Geometry, Image, read_image, split_ending, write_label_map
from segplan.imaging.image import spacing_zyx

Segment = Callable[[Image], NDArray[np.unsignedinteger]]
"""Labels (Z, Y, X) of an image in its own frame."""

_NO_SLICES = 999.0  # stands for the slice distance of 2D pictures: larger than any real one


def segment_as_given(
    segment: Segment, given: Any, spacing: Sequence[float] | None = None, output: Path | str | None = None
) -> Any:
    """Segment `given`, and return the label map as the same kind of thing.

    Args:
        segment: what gives the labels.
        given: an array (C, Z, Y, X) or (C, Y, X), without C if there is one channel; a SimpleITK or nibabel image;
            a path; or a list of such images or paths, one a channel.
        spacing: of an array: mm of the spatial axes, (z, y, x) or (y, x).
        output: for paths: the file to write, in the format of its ending.

    Returns:
        An array (Z, Y, X) or (Y, X); an image of the given library's, with the given image's geometry; or `output`.

    Raises:
        ImageError: the image cannot be read or does not fit the model, or an argument is missing.
    """
    several = isinstance(given, list | tuple) and bool(given) and _library(given[0]) != "array"
    channels: list[Any] = list(given) if several else [given]
    library = _library(channels[0])
    if library != "array" and spacing is not None:
        raise ImageError("it has a spacing of its own", remedy="Leave out spacing=: that is for arrays.")
    if library != "path" and output is not None:
        raise ImageError("only a path's label map is written", remedy="Leave out output= and take what is returned.")
    if library == "path":
        if output is None:
            raise ImageError("output is missing", remedy="Give output=FILE, or use predict_files for an array.")
        split_ending(Path(output).name)  # refused before the work, not after it
        image = read_image([Path(path) for path in channels])
        write_label_map(Path(output), segment(image), image.geometry)
        return Path(output)
    if library == "SimpleITK":
        return _to_simpleitk(segment(_joined([_from_simpleitk(each) for each in channels])), channels[0])
    if library == "nibabel":
        return _to_nibabel(segment(_joined([_from_nibabel(each) for each in channels])), channels[0])
    if spacing is None:
        raise ImageError("an array has no spacing", remedy="Give spacing=(z, y, x) in mm.")
    labels = segment(image_from_array(given, spacing))
    return labels[0] if len(spacing) == 2 else labels


def image_from_array(array: NDArray[Any], spacing: Sequence[float]) -> Image:
    """An image at the origin without rotation.

    Args:
        array: (C, Z, Y, X), or (C, Y, X) for a 2D picture; without C if there is one channel.
        spacing: mm of the spatial axes, (z, y, x) or (y, x).

    Raises:
        ImageError: the number of axes and spacings do not fit, or a spacing is no length.
    """
    values = np.asarray(array)
    if values.dtype.kind not in "buif":
        raise ImageError(f"the array holds {values.dtype}, no real numbers", remedy="Give integers or floats.")
    if not all(np.isfinite(value) and value > 0 for value in spacing):
        raise ImageError(f"the spacing is {tuple(spacing)}", remedy="Give mm, all larger than 0.")
    if len(spacing) not in (2, 3) or values.ndim - len(spacing) not in (0, 1):
        raise ImageError(
            f"the array has {values.ndim} axes and the spacing {len(spacing)} entries",
            remedy="Give (C, Z, Y, X) with (z, y, x), or (C, Y, X) with (y, x).",
        )
    if values.ndim == len(spacing):
        values = values[None]
    if len(spacing) == 2:
        values = values[:, None]
    if not values.size:
        raise ImageError(f"the array is empty: {values.shape}", remedy="Give at least one voxel.")
    y, x = (float(value) for value in spacing[-2:])
    z = float(spacing[0]) if len(spacing) == 3 else _NO_SLICES * max(y, x)
    in_file_order = tuple(float(value) for value in reversed(spacing))
    direction = tuple(np.eye(len(spacing)).ravel().tolist())
    geometry = Geometry(len(spacing), in_file_order, (0.0,) * len(spacing), direction)
    return Image(np.asarray(values, dtype=np.float32), (z, y, x), geometry)


def _library(item: Any) -> str:
    """The library that it belongs to, or "path", or "array" for anything else; imports none of them."""
    if isinstance(item, str | Path):
        return "path"
    top = {kind.__module__.partition(".")[0] for kind in type(item).__mro__}
    return next((name for name in ("SimpleITK", "nibabel") if name in top), "array")


def _joined(channels: Sequence[Image]) -> Image:
    first = channels[0]
    for image in channels[1:]:
        if image.array.shape[1:] != first.array.shape[1:] or not _same_place(image.geometry, first.geometry):
            raise ImageError("the channels are not on one grid", remedy="Register or resample them to one grid.")
    return Image(np.concatenate([image.array for image in channels]), first.spacing, first.geometry)


def _same_place(one: Geometry, other: Geometry) -> bool:
    pairs = ((one.spacing, other.spacing), (one.origin, other.origin), (one.direction, other.direction))
    return all(np.allclose(a, b, atol=1e-3) for a, b in pairs)


def _from_simpleitk(image: Any) -> Image:
    import SimpleITK as sitk  # noqa: N813

    from segplan.imaging.simpleitk import geometry_of

    geometry = geometry_of(image)
    array = sitk.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() == 4 and components == 1:  # the fourth axis holds channels
        channels = array
    else:
        channels = np.moveaxis(array, -1, 0) if components > 1 else array[None]
        channels = channels[:, None] if geometry.dimension == 2 else channels
    return Image(np.asarray(channels, dtype=np.float32), spacing_zyx(geometry), geometry)


def _to_simpleitk(labels: NDArray[np.unsignedinteger], like: Any) -> Any:
    import SimpleITK as sitk  # noqa: N813

    from segplan.imaging.simpleitk import geometry_of

    geometry = geometry_of(like)
    image = sitk.GetImageFromArray(labels[0] if geometry.dimension == 2 else labels)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def _from_nibabel(image: Any) -> Image:
    values = np.asanyarray(image.dataobj)
    if values.ndim not in (3, 4):
        raise ImageError(f"a nibabel image of {values.ndim} axes", remedy="Give 3 axes, or 4 with the channels last.")
    columns = np.asarray(image.affine, dtype=float)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(spacing).all() and spacing.all()):
        raise ImageError(f"its spacing is {tuple(spacing)}", remedy="Mend its affine.")
    to_lps = np.array([-1.0, -1.0, 1.0])  # nibabel's x and y point right and front, ITK's left and back
    direction = (columns / spacing) * to_lps[:, None]
    origin = np.asarray(image.affine, dtype=float)[:3, 3] * to_lps
    geometry = Geometry(3, tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction.ravel().tolist()))
    channels = values.transpose(2, 1, 0)[None] if values.ndim == 3 else values.transpose(3, 2, 1, 0)
    return Image(np.ascontiguousarray(channels, dtype=np.float32), spacing_zyx(geometry), geometry)


def _to_nibabel(labels: NDArray[np.unsignedinteger], like: Any) -> Any:
    import nibabel

    make: Any = nibabel.Nifti1Image  # nibabel is not typed
    return make(np.ascontiguousarray(labels.transpose(2, 1, 0)), like.affine)
