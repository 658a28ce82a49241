"""Why a planned network cannot run, and how to mend its patch so that it can."""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from segplan.planning.budget import batch_cap, needed_features
from segplan.planning.configured import Configured, PatchStep, Resolution
from segplan.planning.decathlon2018 import pool_by_size
from segplan.planning.memory import count_features
from segplan.planning.reasons import times
from segplan.planning.settings import PlannerSettings
from segplan.planning.topology import Topology, derive_topology


def why_not_runnable(configured: Configured, median_shape: Sequence[float], settings: PlannerSettings) -> str | None:
    """Why no network can be trained with this topology; None if one can."""
    topology, edge = configured.topology, settings.min_bottleneck_edge
    if topology.stages == 1:
        shortened = len(configured.steps) > 1
        what = (
            f"the patch that the budget leaves, {times(topology.patch_size)},"
            if shortened
            else (f"the median image, {times(median_shape)},")
        )
        return (
            f"{what} is too small to be halved once "
            f"(an axis needs {2 * edge} voxels, a lone one {3 * edge}), and a U-Net needs two resolutions"
        )
    if math.prod(topology.bottom) == 1:
        return (
            f"of a patch of {times(topology.patch_size)} a single voxel is left at the lowest resolution, "
            "which cannot be normalised"
        )
    return None


def mended(configured: Configured, resolution: Resolution, settings: PlannerSettings) -> Configured:
    """`configured` if its network can run, else with a patch large enough.

    The patch may then exceed the median image (it is padded) and the memory budget.
    """
    trouble = why_not_runnable(configured, resolution.median_shape, settings)
    if trouble is None:
        return configured
    topology, spacing = configured.topology, resolution.spacing
    if topology.stages == 1:
        size = _enlarged(topology.patch_size, spacing, settings)
        by_size = settings.rules == "decathlon2018"
        topology = pool_by_size(size, settings) if by_size else derive_topology(spacing, size, settings)
    if math.prod(topology.bottom) == 1:
        longest = max(range(len(spacing)), key=lambda axis: topology.divisor[axis])
        topology = _doubled(topology, longest)
    what = f"{trouble}; so the patch is enlarged to {times(topology.patch_size)}"
    return _reconfigured(configured, topology, what, resolution, settings)


def _enlarged(size: Sequence[int], spacing: Sequence[float], settings: PlannerSettings) -> list[int]:
    """The size with its finest axes, those of a single voxel apart, long enough to be halved once."""
    longer = [axis for axis, edge in enumerate(size) if edge > 1] or list(range(len(size)))
    finest = min(spacing[axis] for axis in longer)
    halved = [axis for axis in longer if spacing[axis] / finest < settings.pooling_spacing_ratio]
    needed = (2 if len(halved) > 1 else 3) * settings.min_bottleneck_edge
    return [max(edge, needed) if axis in halved else edge for axis, edge in enumerate(size)]


def _doubled(topology: Topology, axis: int) -> Topology:
    patch = tuple(2 * size if i == axis else size for i, size in enumerate(topology.patch_size))
    return replace(topology, patch_size=patch)


def _reconfigured(
    configured: Configured, topology: Topology, what: str, resolution: Resolution, settings: PlannerSettings
) -> Configured:
    axes = resolution.axes
    count = count_features(topology.patch_size, topology.strides, resolution.label_count, settings)
    affordable = round(settings.budget(axes) / count * settings.reference_batch_size(axes))
    cap = batch_cap(resolution, topology.patch_size, settings)
    step = PatchStep(topology.patch_size, needed_features(count, axes, settings), None)
    patch_reason = {"patch_size": f"repaired: {what}"}
    return replace(
        configured,
        topology=topology,
        features=settings.stage_features(topology.stages, axes),
        batch_size=max(min(configured.batch_size, affordable, cap), settings.min_batch_size),
        feature_count=count,
        steps=(*configured.steps, step),
        affordable_batch=affordable,
        batch_cap=cap,
        repaired=what,
        reasons=MappingProxyType(dict(configured.reasons) | patch_reason),
    )
