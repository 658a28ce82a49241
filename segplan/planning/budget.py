"""The largest patch that fits the memory budget, and the batch that goes with it (nnU-Net 2.8.1)."""

import math
from collections.abc import Iterator, Sequence

from segplan.errors import ConfigError
from segplan.planning.configured import Configured, PatchStep, Resolution
from segplan.planning.memory import count_features
from segplan.planning.settings import PlannerSettings
from segplan.planning.topology import Topology, derive_topology


def configure_by_budget(resolution: Resolution, settings: PlannerSettings) -> Configured:
    """Start from a large patch and shorten its relatively longest axis until the network fits the memory budget.

    Raises:
        ConfigError: not even a patch of one voxel would fit the budget.
    """
    axes = resolution.axes
    steps: list[PatchStep] = []
    for topology, shortened in candidates(resolution, settings):
        count = count_features(topology.patch_size, topology.strides, resolution.label_count, settings)
        steps.append(PatchStep(topology.patch_size, needed_features(count, axes, settings), shortened))
        if steps[-1].features <= settings.budget(axes):
            break
    else:
        raise no_patch_fits(axes, settings)
    affordable = round(settings.budget(axes) / count * settings.reference_batch_size(axes))
    cap = batch_cap(resolution, topology.patch_size, settings)
    return Configured(
        topology=topology,
        features=settings.stage_features(topology.stages, axes),
        batch_size=max(min(affordable, cap), settings.min_batch_size),
        feature_count=count,
        steps=tuple(steps),
        affordable_batch=affordable,
        batch_cap=cap,
    )


def candidates(resolution: Resolution, settings: PlannerSettings) -> Iterator[tuple[Topology, int | None]]:
    """Ever smaller patches with their topologies, and the axis that was shortened for each; ends when none is left."""
    spacing, median_shape = resolution.spacing, resolution.median_shape
    start = initial_patch(spacing, median_shape, settings)
    following: tuple[Topology, int | None] | None = derive_topology(spacing, start, settings), None
    seen = set()
    while following is not None:
        yield following
        topology = following[0]
        seen.add(topology.patch_size)
        # The first that leaves a patch; where nnU-Net's choice leaves none, it fails or goes round in circles.
        shorter = ((_shortened(topology, axis, spacing, settings), axis) for axis in _longest(topology, median_shape))
        following = next(((it, axis) for it, axis in shorter if it and it.patch_size not in seen), None)


def initial_patch(spacing: Sequence[float], median_shape: Sequence[float], settings: PlannerSettings) -> list[float]:
    """A patch with the voxels of the settings, of equal extent in mm on all axes, cut to the median image."""
    inverse = [1 / value for value in spacing]
    scale = (settings.initial_patch_voxels(len(spacing)) / math.prod(inverse)) ** (1 / len(spacing))
    # A median that rounds to no voxel at all (a target spacing beyond the image's extent) still has one.
    return [min(max(round(value * scale), 1), edge or 1) for value, edge in zip(inverse, median_shape, strict=True)]


def needed_features(count: int, axes: int, settings: PlannerSettings) -> float:
    """Features of the batch that must fit, scaled to the reference batch size; `count` is a sample's."""
    if settings.shrink_patch_for == "reference_batch":
        return float(count)
    return count / settings.reference_batch_size(axes) * settings.min_batch_size


def batch_cap(resolution: Resolution, patch_size: Sequence[int], settings: PlannerSettings) -> int:
    """Batch size that covers the allowed share of the dataset's voxels."""
    return round(resolution.dataset_voxels * settings.max_dataset_fraction / math.prod(patch_size))


def no_patch_fits(axes: int, settings: PlannerSettings) -> ConfigError:
    """The refusal of a budget that holds no patch at all."""
    return ConfigError(
        f"no {axes}D patch fits {settings.gpu_memory_gb:g} GB",
        "planner.gpu_memory_gb",
        "Allow more memory or a smaller planner.min_batch_size.",
    )


def _longest(topology: Topology, median_shape: Sequence[float]) -> list[int]:
    """The axes, relatively longest first; of equal ones the last first."""
    ratios = [size / (edge or 1) for size, edge in zip(topology.patch_size, median_shape, strict=True)]
    return sorted(range(len(ratios)), key=lambda axis: (-ratios[axis], -axis))


def _shortened(topology: Topology, axis: int, spacing: Sequence[float], settings: PlannerSettings) -> Topology | None:
    """The next smaller patch along `axis`; None if nothing would be left."""
    trial = list(topology.patch_size)
    trial[axis] -= topology.divisor[axis]
    # The shorter patch may have fewer poolings, and then a smaller step is enough.
    step = derive_topology(spacing, trial, settings).divisor[axis]
    size = list(topology.patch_size)
    size[axis] -= step
    return derive_topology(spacing, size, settings) if size[axis] >= 1 else None
