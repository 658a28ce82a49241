"""A segmented case in three planes: slices as JPEG, reference outline and predicted area as PNG to lay over them."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.imaging import Geometry, axis_codes
from segplan.reporting.planes import busiest_slice
from segplan.reporting.style import class_colour
from segplan.reporting.survey import class_indices
from segplan.reporting.thumbnail import AXES, PLANE_NAMES, View, target_number, view_of

_LONGEST_SIDE = 340  # pixels
_SHORTEST_SIDE = 48
_JPEG_QUALITY = 84
_ROOM = 0.35  # about the structures, as a share of their extent on either side
_LEAST_SHARE = 0.4  # of the slice that is shown at least along each side: else nobody knows where it is
_OUTLINE = 2  # pixels on either side of an edge
_FILL = 105  # of 255: opacity of the predicted area
_MOST_COLOURS = 255
_LIGHTER = 0.45  # share of white in an outline's colour, so that it stands out from an area of its own class

Grey = NDArray[np.float32]
CutImage = Callable[[int, int], Grey]


@dataclass(frozen=True)
class Shot:
    """One plane of a case.

    Args:
        picture: JPEG of the image.
        prediction: PNG of the same size, the predicted classes as see-through areas.
        reference: likewise, the outlines of the reference; None without one.
        size: (width, height) in pixels.
        name: which plane and slice; "" for a picture.
    """

    picture: bytes
    prediction: bytes
    reference: bytes | None
    size: tuple[int, int]
    name: str


@dataclass(frozen=True)
class CasePicture:
    """What is drawn of a case.

    Args:
        cut_image: gives the slice (C, H, W) of the image across an axis of (Z, Y, X), at an index.
        window: values shown black and white.
        reference: (Z, Y, X), or None.
        prediction: (Z, Y, X).
        geometry: of the files.
        spacing: mm along (z, y, x).
        labels: what the values mean.
    """

    cut_image: CutImage
    window: tuple[float, float]
    reference: NDArray[np.integer[Any]] | None
    prediction: NDArray[np.integer[Any]]
    geometry: Geometry
    spacing: tuple[float, float, float]
    labels: Labels

    @property
    def codes(self) -> str:
        """Where the axes (z, y, x) point, a letter each; "" for a picture."""
        return "" if self.geometry.dimension == 2 else axis_codes(self.geometry)[::-1]


def draw_shots(case: CasePicture) -> list[Shot]:
    """Draw the slices that show most of the classes, across each axis; the only one of a 2D case.

    They are laid out as radiologists are used to, seen from the feet with front or head up, and cut to the structures
    and their surroundings.
    """
    predicted = class_indices(case.prediction, case.labels)
    expected = None if case.reference is None else class_indices(case.reference, case.labels)
    guide = predicted if expected is None or not expected.any() else expected
    flat = case.geometry.dimension == 2 or predicted.shape[0] == 1
    views = [view_of(case.codes, axis, busiest_slice(guide, axis)) for axis in ((0,) if flat else (0, 1, 2))]
    return [_shot(view, case, expected, predicted) for view in views]


def _shot(view: View, case: CasePicture, expected: NDArray[np.uint16] | None, predicted: NDArray[np.uint16]) -> Shot:
    image = _turned(case.cut_image(view.axis, view.index), view)
    area = view.cut(predicted)
    outline = None if expected is None else view.cut(expected)
    rows, columns = _crop(area if outline is None else np.maximum(area, outline))
    steps = [case.spacing[other] for other in range(3) if other != view.axis]
    steps = steps[::-1] if view.turned else steps
    size = _pixels((rows.stop - rows.start) * steps[0], (columns.stop - columns.start) * steps[1])
    plane = PLANE_NAMES[AXES[case.codes[view.axis]]] if case.codes else ""
    return Shot(
        _jpeg(image[:, rows, columns], case.window, size),
        _painted(area[rows, columns], size, case.labels, outlined=False),
        None if outline is None else _painted(outline[rows, columns], size, case.labels, outlined=True),
        size,
        f"{plane} slice {view.index + 1} of {predicted.shape[view.axis]}" if plane else "",
    )


def _turned(plane: Grey, view: View) -> Grey:
    """The slice (C, H, W) in the view's layout."""
    plane = plane.swapaxes(-1, -2) if view.turned else plane
    rows, columns = (slice(None, None, -1 if flip else 1) for flip in view.flips)
    return plane[..., rows, columns]


def _crop(labels: NDArray[np.uint16]) -> tuple[slice, slice]:
    """The rows and columns about the classes; all of them where there are none."""
    parts = []
    for axis in (1, 0):
        size = labels.shape[1 - axis]
        occupied = np.flatnonzero(labels.any(axis=axis))
        if not len(occupied):
            parts.append(slice(0, size))
            continue
        first, last = int(occupied[0]), int(occupied[-1]) + 1
        wanted = max((1 + 2 * _ROOM) * (last - first), _LEAST_SHARE * size)
        start = max(0, round((first + last - wanted) / 2))
        parts.append(slice(start, min(size, max(last, start + round(wanted)))))
    return parts[0], parts[1]


def _pixels(height: float, width: float) -> tuple[int, int]:
    """(width, height) in pixels of a slice of that many mm."""
    scale = _LONGEST_SIDE / max(height, width)
    return max(_SHORTEST_SIDE, round(width * scale)), max(_SHORTEST_SIDE, round(height * scale))


def _jpeg(planes: Grey, window: tuple[float, float], size: tuple[int, int]) -> bytes:
    from PIL import Image as Pillow

    low, high = window
    shown = planes if len(planes) == 3 else planes[:1]
    values = np.clip((np.nan_to_num(shown) - low) / max(high - low, 1e-6), 0, 1) * 255
    pixels = np.rint(values).astype(np.uint8)
    picture = Pillow.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])
    buffer = io.BytesIO()
    picture.resize(size, Pillow.Resampling.BICUBIC).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _painted(plane: NDArray[np.uint16], size: tuple[int, int], labels: Labels, *, outlined: bool) -> bytes:
    """PNG of class areas or of their outlines, transparent elsewhere; ignored voxels are not drawn."""
    from PIL import Image as Pillow

    width, height = size
    rows = (np.arange(height) * plane.shape[0]) // height
    columns = (np.arange(width) * plane.shape[1]) // width
    numbers = target_number(labels)
    table = np.zeros(max(int(plane.max(initial=0)), *numbers) + 1, np.uint8)
    palette = [(0, 0, 0)]
    for index, number in list(numbers.items())[: _MOST_COLOURS - 1]:
        table[index] = len(palette)
        palette.append(_lighter(class_colour(number)) if outlined else class_colour(number))
    large = table[plane[np.ix_(rows, columns)]]
    if outlined:
        large = np.where(_edges(large), large, 0).astype(np.uint8)
    picture = Pillow.fromarray(large)
    picture.putpalette([value for colour in palette for value in colour])
    opacity = bytes([0, *[255 if outlined else _FILL] * (len(palette) - 1)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=opacity, optimize=True)
    return buffer.getvalue()


def _lighter(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (round(value + _LIGHTER * (255 - value)) for value in colour)
    return red, green, blue


def _edges(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels near one of another class; both sides, so that an outline is as wide as two pixels of either."""
    padded = np.pad(labels, _OUTLINE, mode="edge")
    height, width = labels.shape
    found = np.zeros(labels.shape, bool)
    for down in range(2 * _OUTLINE + 1):
        for right in range(2 * _OUTLINE + 1):
            found |= padded[down : down + height, right : right + width] != labels
    return found


def choose_cases(dice: Sequence[tuple[str, float]], each: int = 2) -> list[tuple[str, str]]:
    """(case, "worst", "median" or "best"): up to `each` of a kind, no case twice; NaN is left out.

    Args:
        dice: (case, its mean Dice).
        each: how many of a kind.
    """
    ordered = sorted((value, case) for case, value in dice if not np.isnan(value))
    names = [case for _, case in ordered]
    if len(names) <= 3:
        kinds = ("worst", "median", "best") if len(names) == 3 else ("worst", "best")
        return list(zip(names, kinds, strict=False))
    count = min(each, len(names) // 3)
    middle = (len(names) - count) // 2
    return [
        *((case, "worst") for case in names[:count]),
        *((case, "median") for case in names[middle : middle + count]),
        *((case, "best") for case in reversed(names[-count:])),
    ]
