"""What the inspect page says of a case: size, intensities, volumes, objects, a thumbnail, and what is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.dataset import Case, Description, Labels, check_case
from segplan.errors import ImageError, Problem
from segplan.imaging import Image, axis_codes, read_image, read_label_map
from segplan.reporting.thumbnail import Thumbnail, draw_thumbnail

PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
MEDIAN = PERCENTILES.index(50.0)
_LARGEST_TABLE = 1 << 16
_SAMPLE = 2_000_000  # voxels: percentiles of more are taken from every n-th

Percentiles = tuple[float, ...]
"""Values at `PERCENTILES`."""


@dataclass(frozen=True)
class TargetLook:
    """A class (label or region) in one case.

    Attributes:
        voxels: how many it has.
        objects: its connected parts; voxels that share a corner are connected.
        smallest: voxels of the smallest part, 0 where there is none.
        place: (z, y, x) indices about the middle of that part.
        intensities: percentiles of each channel inside; empty where it is absent.
    """

    voxels: int
    objects: int = 0
    smallest: int = 0
    place: tuple[int, int, int] | None = None
    intensities: tuple[Percentiles, ...] = ()


@dataclass(frozen=True)
class CaseLook:
    """One case; what could not be found out is None or empty.

    Attributes:
        identifier: the case's.
        problems: what verification says of it.
        shape: (z, y, x) voxels.
        spacing: mm along (z, y, x).
        flat: whether the files are 2D.
        orientation: of the axes x, y, z, such as RAS; "" for 2D.
        channels: percentiles of each channel over the whole image.
        targets: in the order of `Labels.targets`.
        ignored: share of voxels with the ignore label.
        thumbnail: the case's slice.
    """

    identifier: str
    problems: tuple[Problem, ...]
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    flat: bool = False
    orientation: str = ""
    channels: tuple[Percentiles, ...] = ()
    targets: tuple[TargetLook, ...] = ()
    ignored: float = 0.0
    thumbnail: Thumbnail | None = None


def look_at_case(case: Case, description: Description) -> CaseLook:
    """Read one case and measure it; runs in worker processes. Problems are part of the result, not raised."""
    problems: list[Problem] = []
    image = label_map = None
    try:
        image = read_image(case.images)
        label_map = None if case.label is None else read_label_map(case.label)
    except ImageError as error:
        what = error.what if error.where is None else f"{error.where}: {error.what}"
        problems.append(Problem(case.identifier, what, error.remedy or "Mend or replace the file."))
    if image is None:
        return CaseLook(case.identifier, tuple(problems))
    problems += check_case(case, description, image, label_map)
    labels = None
    if label_map is not None and label_map.array.shape[1:] == image.array.shape[1:]:
        labels = class_indices(label_map.array[0], description.labels)
    z, y, x = image.array.shape[1:]
    return CaseLook(
        identifier=case.identifier,
        problems=tuple(problems),
        shape=(z, y, x),
        spacing=image.spacing,
        flat=image.geometry.dimension == 2,
        orientation="" if image.geometry.dimension == 2 else axis_codes(image.geometry),
        channels=tuple(percentiles(channel) for channel in image.array),
        targets=() if labels is None else measure_targets(image, labels, description.labels),
        ignored=0.0 if labels is None else _ignored(labels, description.labels),
        thumbnail=draw_thumbnail(image, labels, description.labels),
    )


def class_indices(label_map: NDArray[np.integer[Any]], labels: Labels) -> NDArray[np.uint16]:
    """The label map with the indices of `Labels.indexed`; values that are no label count as background here."""
    values = [*labels.all_labels, *([] if labels.ignore is None else [labels.ignore])]
    highest = max(values)
    result = np.zeros(label_map.shape, np.uint16)
    if highest < _LARGEST_TABLE:
        table = np.zeros(highest + 2, np.uint16)
        table[values] = np.arange(len(values))
        for part, into in zip(label_map, result, strict=True):
            into[...] = table[np.where((part < 0) | (part > highest), highest + 1, part)]
        return result
    for index, value in enumerate(values):
        result[label_map == value] = index
    return result


def measure_targets(image: Image, indices: NDArray[np.uint16], labels: Labels) -> tuple[TargetLook, ...]:
    """Every class of a case, in the order of `Labels.targets`.

    Args:
        image: array (C, Z, Y, X).
        indices: (Z, Y, X), see `class_indices`.
        labels: the dataset's.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(indices, max_label=max(labels.indexed.all_labels))
    looks = []
    for members in labels.indexed.targets.values():
        parts = [boxes[index - 1] for index in members if index > 0 and boxes[index - 1] is not None]
        looks.append(_measure(image.array, indices, members, _union(parts)) if parts else TargetLook(0))
    return tuple(looks)


def percentiles(values: NDArray[Any]) -> Percentiles:
    """Values at `PERCENTILES` among the finite ones; of many voxels, every n-th is looked at."""
    flat = values.reshape(-1)[:: max(1, values.size // _SAMPLE)]
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return (0.0,) * len(PERCENTILES)
    return tuple(float(value) for value in np.percentile(finite, PERCENTILES))


def _measure(
    channels: NDArray[np.float32], indices: NDArray[np.uint16], members: Sequence[int], box: tuple[slice, ...]
) -> TargetLook:
    from scipy import ndimage

    mask = np.isin(indices[box], members)
    parts, count = ndimage.label(mask, np.ones((3, 3, 3), bool))
    sizes = np.bincount(parts.reshape(-1))[1:]
    smallest = int(sizes.argmin())
    found = ndimage.find_objects(parts)[smallest]
    z, y, x = ((part.start + part.stop - 1) // 2 + side.start for part, side in zip(found, box, strict=True))
    return TargetLook(
        voxels=int(sizes.sum()),
        objects=int(count),
        smallest=int(sizes[smallest]),
        place=(z, y, x),
        intensities=tuple(percentiles(channel[box][mask]) for channel in channels),
    )


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )


def _ignored(indices: NDArray[np.uint16], labels: Labels) -> float:
    ignore = labels.indexed.ignore
    return 0.0 if ignore is None or not indices.size else float((indices == ignore).mean())
