"""Metrics that know of millimetres: volumes, surface distances, lesions. One call a case, class by class in its box.

Where a target is on one side only, every metric here takes its worst value, so that a missed structure never improves
a mean; where it is on neither side, every metric is NaN and the case does not count.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import ConfigError
from segplan.evaluation.lesions import count_lesions
from segplan.evaluation.metrics import LabelArray, Targets
from segplan.evaluation.postprocessing import voxel_volume
from segplan.evaluation.surfaces import assd, boundary_distances, hd95, hd95_max, surface_dice

GROUPS: Mapping[str, tuple[str, ...]] = {
    "volume": ("VolumeError_ml", "VolumeDissimilarity"),
    "nsd": ("NSD",),
    "hd95": ("HD95", "HD95Max"),
    "assd": ("ASSD",),
    "lesions": (
        "LesionF1",
        "LesionPrecision",
        "LesionSensitivity",
        "LesionsFound",
        "LesionsPredicted",
        "LesionsReference",
    ),
}
"""The names in summary.json of each group that `metrics=[…]` may ask for."""

LOWER_IS_BETTER = frozenset({"VolumeError_ml", "VolumeDissimilarity", "HD95", "HD95Max", "ASSD", "FN", "FP"})

_SURFACE_GROUPS = ("nsd", "hd95", "assd")
_LARGEST_VALUE = 1 << 16

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class MetricSettings:
    """Which metrics are computed beyond the overlap."""

    groups: tuple[str, ...] = ()
    """Names of `GROUPS`."""
    tolerance_mm: float = 2.0
    """Of NSD: how far apart surfaces may be. The distance between two experts' contours is a good choice."""
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    """Of NSD by target key, where it differs."""
    lesion_overlap: float = 0.0
    """Share of a lesion that must be covered for it to count as found; 0: one voxel."""

    def __post_init__(self) -> None:
        unknown = [group for group in self.groups if group not in GROUPS]
        if unknown:
            remedy = f"Use dice, iou (always there), {', '.join(GROUPS)} or all."
            raise ConfigError(f"there is no metric {unknown[0]}", "metrics", remedy)
        wrong = [value for value in (self.tolerance_mm, *self.tolerances_mm.values()) if not value >= 0]
        if wrong:
            raise ConfigError(f"{wrong[0]} is no distance", "nsd_tolerance", "Give mm, from 0 up.")
        if not 0 <= self.lesion_overlap <= 1:
            raise ConfigError(f"{self.lesion_overlap} is no share", "lesion_overlap", "Give a number from 0 to 1.")

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics' names in summary.json."""
        return tuple(name for group in self.groups for name in GROUPS[group])


def spatial_metrics(
    prediction: LabelArray,
    reference: LabelArray,
    spacing: Sequence[float],
    targets: Targets,
    settings: MetricSettings,
) -> dict[str, dict[str, float]]:
    """The metrics of every target of a case.

    Args:
        prediction: label map (Z, Y, X).
        reference: label map of the same shape.
        spacing: mm along (Z, Y, X).
        targets: what is evaluated. Voxels that the reference ignores belong to no target on either side.
        settings: which metrics.

    Returns:
        By target key and metric name.
    """
    if not settings.groups:
        return {key: {} for key in targets.values}
    ignored = None if targets.ignore is None else reference == targets.ignore
    boxes, flat = (_boxes(prediction), _boxes(reference)), reference.shape[0] == 1
    found = {}
    for key, members in targets.values.items():
        masks = [np.zeros((1, 1, 1), bool)] * 2
        box = _common_box(members, boxes)
        if box is not None:
            masks = [np.isin(labels[box], members) for labels in (prediction, reference)]
            if ignored is not None:
                masks = [mask & ~ignored[box] for mask in masks]
        tolerance = settings.tolerances_mm.get(key, settings.tolerance_mm)
        furthest = math.hypot(*((size - 1) * float(step) for size, step in zip(reference.shape, spacing, strict=True)))
        found[key] = dict(_of_target(masks, spacing, settings, tolerance=tolerance, furthest=furthest, flat=flat))
    return found


def _of_target(
    masks: Sequence[NDArray[np.bool_]],
    spacing: Sequence[float],
    settings: MetricSettings,
    *,
    tolerance: float,
    furthest: float,
    flat: bool,
) -> Iterator[tuple[str, float]]:
    """Names and values of one target's metrics; `furthest` is the largest distance of two voxels of the image."""
    prediction, reference = masks
    sizes = int(prediction.sum()), int(reference.sum())
    if not any(sizes):
        yield from ((name, math.nan) for name in settings.names)
        return
    if "volume" in settings.groups:
        difference = abs(sizes[0] - sizes[1])
        yield "VolumeError_ml", difference * voxel_volume(spacing) / 1000
        yield "VolumeDissimilarity", difference / sum(sizes)
    if "lesions" in settings.groups:
        counts = count_lesions(prediction, reference, settings.lesion_overlap)
        yield "LesionF1", counts.f1
        yield "LesionPrecision", counts.precision
        yield "LesionSensitivity", counts.sensitivity
        yield "LesionsFound", counts.found
        yield "LesionsPredicted", counts.predicted
        yield "LesionsReference", counts.reference
    if not all(sizes):
        worst = {"NSD": 0.0, "HD95": furthest, "HD95Max": furthest, "ASSD": furthest}
        wanted = [group for group in settings.groups if group in _SURFACE_GROUPS]
        yield from ((name, worst[name]) for group in wanted for name in GROUPS[group])
        return
    if "nsd" in settings.groups:
        yield "NSD", surface_dice(prediction, reference, spacing, tolerance, flat=flat)
    if "hd95" in settings.groups or "assd" in settings.groups:
        forth, back = boundary_distances(prediction, reference, spacing, flat=flat)
        if "hd95" in settings.groups:
            yield "HD95", hd95(forth, back)
            yield "HD95Max", hd95_max(forth, back)
        if "assd" in settings.groups:
            yield "ASSD", assd(forth, back)


def _boxes(labels: LabelArray) -> dict[int, Box]:
    """The box of each foreground value of a label map."""
    from scipy import ndimage

    if labels.size and int(labels.min()) >= 0 and int(labels.max()) < _LARGEST_VALUE:
        objects: list[Any] = ndimage.find_objects(labels if labels.dtype.kind == "i" else labels.astype(np.int32))
        return {value: box for value, box in enumerate(objects, 1) if box is not None}
    values, numbers = np.unique(labels, return_inverse=True)
    objects = ndimage.find_objects(numbers.reshape(labels.shape) + 1)
    return {int(value): box for value, box in zip(values, objects, strict=True) if value != 0}


def _common_box(members: tuple[int, ...], boxes: Sequence[Mapping[int, Box]]) -> Box | None:
    """The box around all members in all label maps."""
    found = [known[value] for known in boxes for value in members if value in known]
    if not found:
        return None
    sides = [slice(min(box[axis].start for box in found), max(box[axis].stop for box in found)) for axis in range(3)]
    return sides[0], sides[1], sides[2]
