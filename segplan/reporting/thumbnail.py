"""A small picture of a case: its slice as JPEG, and the outlines of its labels as a see-through PNG to lay over it."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.imaging import Image, axis_codes
from segplan.reporting.planes import busiest_slice, grey_window
from segplan.reporting.style import class_colour

_LONGEST_SIDE = 256  # pixels
_SHORTEST_SIDE = 32
_JPEG_QUALITY = 82
_IGNORED = (150, 150, 150)
_ANISOTROPIC = 1.2
_WINDOW_ROOM = 1.5  # so that the surroundings are seen too
_OUTLINE = 2  # pixels
AXES = {"S": 0, "I": 0, "A": 1, "P": 1, "L": 2, "R": 2}  # the lower goes from top to bottom
PLANE_NAMES = ("axial", "coronal", "sagittal")
_MOST_COLOURS = 255


@dataclass(frozen=True)
class Thumbnail:
    """A picture and the outlines over it.

    Attributes:
        picture: JPEG.
        outlines: PNG of the same size, transparent where there is no outline; None without labels.
        size: (width, height) in pixels.
        slice_name: which slice, "" for a 2D picture.
    """

    picture: bytes
    outlines: bytes | None
    size: tuple[int, int]
    slice_name: str


@dataclass(frozen=True)
class View:
    """How a slice is laid out: seen from the feet with the patient's front or head up, as radiologists are used to.

    Attributes:
        axis: of the array (Z, Y, X), across which the slice is cut.
        index: of the slice.
        turned: whether rows and columns change places.
        flips: whether rows and columns are reversed, after turning.
    """

    axis: int
    index: int
    turned: bool
    flips: tuple[bool, bool]

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """The slice (…, H, W) of an array (…, Z, Y, X)."""
        plane: NDArray[Any] = np.take(array, self.index, self.axis - 3)
        plane = plane.swapaxes(-1, -2) if self.turned else plane
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return plane[..., rows, columns]


def draw_thumbnail(image: Image, indices: NDArray[np.uint16] | None, labels: Labels) -> Thumbnail:
    """The slice across the coarsest axis that shows most of the classes; without labels the middle one.

    Args:
        image: array (C, Z, Y, X); three channels of a 2D picture are shown in colour, else the first in grey.
        indices: (Z, Y, X) class indices, or None.
        labels: what the indices mean.
    """
    axis = _sliced_axis(image)
    index = image.array.shape[axis + 1] // 2 if indices is None else busiest_slice(indices, axis)
    codes = "" if image.geometry.dimension == 2 else axis_codes(image.geometry)[::-1]
    view = view_of(codes, axis, index)
    extents = [image.array.shape[other + 1] * image.spacing[other] for other in range(3) if other != axis]
    height, width = _pixels(extents[::-1] if view.turned else extents)
    plane = None if indices is None else view.cut(indices)
    base = _picture(image, view, plane).resize((width, height))
    buffer = io.BytesIO()
    base.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    outlines = None if plane is None else _outlines(plane, (height, width), labels)
    name = f"{PLANE_NAMES[AXES[codes[axis]]]} slice {index + 1} of {image.array.shape[axis + 1]}" if codes else ""
    return Thumbnail(buffer.getvalue(), outlines, (width, height), name)


def target_number(labels: Labels) -> dict[int, int]:
    """The class (from 1, in the order of `Labels.targets`) that each index is drawn as; a region by what it paints."""
    indexed = labels.indexed
    if indexed.has_regions and indexed.regions_class_order is not None:
        return {label: number for number, label in enumerate(indexed.regions_class_order, start=1)}
    return {members[0]: number for number, members in enumerate(indexed.targets.values(), start=1)}


def _sliced_axis(image: Image) -> int:
    """The coarsest axis, or the file's last (here the first) where all are about as fine."""
    if image.geometry.dimension == 2 or max(image.spacing) < _ANISOTROPIC * min(image.spacing):
        return 0
    return int(np.argmax(image.spacing))


def view_of(codes: str, axis: int, index: int) -> View:
    """The view of a slice; `codes` says where the axes (z, y, x) point, "" for a 2D picture."""
    if not codes:
        return View(axis, index, False, (False, False))
    row, column = (codes[other] for other in range(3) if other != axis)
    turned = AXES[row] > AXES[column]
    if turned:
        row, column = column, row
    return View(axis, index, turned, (row in "SAR", column in "SAR"))


def _picture(image: Image, view: View, labels: NDArray[np.uint16] | None) -> Any:
    from PIL import Image as Pillow

    planes = np.nan_to_num(view.cut(image.array), posinf=0, neginf=0)
    if len(planes) == 3 and image.geometry.dimension == 2:
        scale = 255 if planes.max() <= 255 else float(planes.max())
        return Pillow.fromarray(np.rint(np.clip(planes / scale, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))
    known = np.zeros(planes[0].shape, np.uint16) if labels is None else labels
    low, high = grey_window(planes[0], known, _WINDOW_ROOM)
    grey = np.clip((planes[0] - low) / max(high - low, 1e-6), 0, 1) * 255
    return Pillow.fromarray(np.rint(grey).astype(np.uint8))


def _pixels(extents: list[float]) -> tuple[int, int]:
    scale = _LONGEST_SIDE / max(extents)
    height, width = (max(_SHORTEST_SIDE, round(extent * scale)) for extent in extents)
    return height, width


def _outlines(plane: NDArray[np.uint16], size: tuple[int, int], labels: Labels) -> bytes:
    """PNG (H, W) with a palette: 0 is transparent, the others are the colours of the classes."""
    from PIL import Image as Pillow

    height, width = size
    rows = (np.arange(height) * plane.shape[0]) // height
    columns = (np.arange(width) * plane.shape[1]) // width
    large = plane[np.ix_(rows, columns)]
    padded = np.pad(large, _OUTLINE, mode="edge")
    edge = np.zeros(large.shape, bool)
    for shift in range(2 * _OUTLINE + 1):
        edge |= padded[shift : shift + height, _OUTLINE : _OUTLINE + width] != large
        edge |= padded[_OUTLINE : _OUTLINE + height, shift : shift + width] != large
    numbers = target_number(labels)
    table = np.zeros(max(int(large.max()), *numbers, labels.indexed.ignore or 0) + 1, np.uint8)
    palette = [(0, 0, 0)]
    for index, number in numbers.items():
        if len(palette) < _MOST_COLOURS:
            table[index] = len(palette)
            palette.append(class_colour(number))
    if labels.indexed.ignore is not None:
        table[labels.indexed.ignore] = len(palette)
        palette.append(_IGNORED)
    picture = Pillow.fromarray(np.where(edge, table[large], 0).astype(np.uint8))
    picture.putpalette([value for colour in palette for value in colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=0, optimize=True)
    return buffer.getvalue()
