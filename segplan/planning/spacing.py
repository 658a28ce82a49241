"""The resolution that images are resampled to, the axis order, and the sizes that follow. Pure functions, float64.

Axis orders: `spacings`, `shapes` and the target spacing are in the files' order (z, y, x); what is transposed says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segplan.planning.settings import PlannerSettings

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class TargetSpacing:
    """The full-resolution spacing in mm (z, y, x) of the files' order, and the rule that gave it."""

    values: Triple
    reason: str


def target_spacing(
    spacings: Sequence[Triple], shapes: Sequence[Sequence[int]], settings: PlannerSettings
) -> TargetSpacing:
    """The median spacing; on an axis that is coarse in spacing and short in voxels a low percentile instead.

    The low percentile keeps the better resolved cases of a mixed dataset from losing slices (nnU-Net 2.8.1; ACDC has
    slices of 5 and of 10 mm). It never goes below the coarser of the other two axes.
    """
    if settings.target_spacing is not None:
        return TargetSpacing(_triple(settings.target_spacing), "as planner.target_spacing asks")
    target = [float(value) for value in np.percentile(np.asarray(spacings, dtype=np.float64), 50, axis=0)]
    size = np.median(np.asarray(shapes, dtype=np.float64), axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    coarser = max(target[axis] for axis in others)
    anisotropic = target[worst] > settings.anisotropy_ratio * coarser
    if not (anisotropic and settings.anisotropy_ratio * size[worst] < min(size[axis] for axis in others)):
        return TargetSpacing(_triple(target), "median over cases")
    median = target[worst]
    low = float(np.percentile([spacing[worst] for spacing in spacings], settings.anisotropic_percentile))
    target[worst] = coarser + 1e-5 if low < coarser else low
    name = "zyx"[worst]
    rule = f"the {settings.anisotropic_percentile:g}th percentile for {name}, which is anisotropic (median {median:g})"
    reason = f"median over cases; {rule}"
    return TargetSpacing(_triple(target), reason)


def transpose_forward(target: Triple, settings: PlannerSettings) -> tuple[int, int, int]:
    """The axis order of the network: the coarsest axis first, the others as they were."""
    first = int(np.argmax(target)) if settings.transpose else 0
    second, third = (axis for axis in range(3) if axis != first)
    return first, second, third


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis after resampling an image of `shape` from `spacing` to `target`; halves round to even."""
    return tuple(round(old / new * size) for old, new, size in zip(spacing, target, shape, strict=True))


def median_resampled_shape(spacings: Sequence[Triple], shapes: Sequence[Sequence[int]], target: Triple) -> Triple:
    """Median over cases of the resampled size per axis; a half where an even number of cases disagrees."""
    resampled = [resampled_shape(shape, spacing, target) for shape, spacing in zip(shapes, spacings, strict=True)]
    return _triple(np.median(np.asarray(resampled, dtype=np.float64), axis=0))


def coarsen(spacing: Sequence[float], settings: PlannerSettings) -> Triple:
    """One step of the search for the low-resolution spacing: finer axes grow first, then all together."""
    coarsest = max(spacing)
    finer = [coarsest / value > settings.lowres_isotropy_ratio for value in spacing]
    grows = finer if any(finer) else [True] * len(spacing)
    step = settings.lowres_spacing_step
    return _triple([value * step if grow else value for value, grow in zip(spacing, grows, strict=True)])


def _triple(values: Sequence[float] | np.ndarray) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third
