"""Patch size, batch size and network of one configuration, from its spacing and the median image (nnU-Net 2.8.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segplan.errors import ConfigError
from segplan.planning.memory import count_features
from segplan.planning.settings import PlannerSettings
from segplan.planning.topology import Topology, derive_topology


@dataclass(frozen=True)
class PatchStep:
    """One candidate on the way to the patch: its size, what it needs, and the axis that was shortened for it.

    `features` is comparable with the budget: of the batch that must fit, scaled to the reference batch size.
    """

    patch_size: tuple[int, ...]
    features: float
    shortened_axis: int | None


@dataclass(frozen=True)
class Configured:
    """What the rules say about one configuration, and how they came to it."""

    topology: Topology
    features: tuple[int, ...]
    batch_size: int
    feature_count: int
    """Feature-map elements of one sample."""
    steps: tuple[PatchStep, ...]
    """Candidate patches, the chosen one last."""
    affordable_batch: int
    """Batch size that the memory budget holds."""
    batch_cap: int
    """Batch size that covers the allowed share of the dataset."""


def configure(
    spacing: Sequence[float],
    median_shape: Sequence[float],
    dataset_voxels: float,
    label_count: int,
    settings: PlannerSettings,
) -> Configured:
    """Start from a large patch and shorten its relatively longest axis until the network fits the memory budget.

    Args:
        spacing: mm per axis, 2 or 3 axes, network frame.
        median_shape: voxels per axis of the median image at that spacing; may be fractional.
        dataset_voxels: voxels of the whole dataset, for the cap on the batch.
        label_count: channels of the head counted in the memory estimate.
        settings: the planner's constants.

    Raises:
        ConfigError: not even a patch of one voxel would fit the budget.
    """
    axes = len(spacing)
    steps, topology, count = _fit_patch(spacing, median_shape, label_count, settings)
    affordable = round(settings.budget(axes) / count * settings.reference_batch_size(axes))
    cap = round(dataset_voxels * settings.max_dataset_fraction / math.prod(topology.patch_size))
    return Configured(
        topology=topology,
        features=settings.stage_features(topology.stages, axes),
        batch_size=max(min(affordable, cap), settings.min_batch_size),
        feature_count=count,
        steps=steps,
        affordable_batch=affordable,
        batch_cap=cap,
    )


def initial_patch(spacing: Sequence[float], median_shape: Sequence[float], settings: PlannerSettings) -> list[float]:
    """A patch with the voxels of the settings, of equal extent in mm on all axes, cut to the median image."""
    inverse = [1 / value for value in spacing]
    scale = (settings.initial_patch_voxels(len(spacing)) / math.prod(inverse)) ** (1 / len(spacing))
    # A median that rounds to no voxel at all (a target spacing beyond the image's extent) still has one.
    return [min(round(value * scale), edge or 1) for value, edge in zip(inverse, median_shape, strict=True)]


def _fit_patch(
    spacing: Sequence[float], median_shape: Sequence[float], label_count: int, settings: PlannerSettings
) -> tuple[tuple[PatchStep, ...], Topology, int]:
    axes = len(spacing)
    budget = settings.budget(axes)
    topology = derive_topology(spacing, initial_patch(spacing, median_shape, settings), settings)
    shortened: int | None = None
    steps: list[PatchStep] = []
    seen = set()
    while True:
        count = count_features(topology.patch_size, topology.strides, label_count, settings)
        needed = _needed_features(count, axes, settings)
        steps.append(PatchStep(topology.patch_size, needed, shortened))
        if needed <= budget:
            return tuple(steps), topology, count
        seen.add(topology.patch_size)
        shortened = _relatively_longest(topology.patch_size, median_shape)
        size = _shortened(topology, shortened, spacing, settings)
        if size[shortened] < 1 or (topology := derive_topology(spacing, size, settings)).patch_size in seen:
            raise ConfigError(
                f"no {axes}D patch fits {settings.gpu_memory_gb:g} GB",
                "planner.gpu_memory_gb",
                "Allow more memory or a smaller planner.min_batch_size.",
            )


def _needed_features(count: int, axes: int, settings: PlannerSettings) -> float:
    if settings.shrink_patch_for == "reference_batch":
        return float(count)
    return count / settings.reference_batch_size(axes) * settings.min_batch_size


def _relatively_longest(patch_size: Sequence[int], median_shape: Sequence[float]) -> int:
    ratios = [size / (edge or 1) for size, edge in zip(patch_size, median_shape, strict=True)]
    return max(range(len(ratios)), key=lambda axis: (ratios[axis], axis))  # ties: the last axis


def _shortened(topology: Topology, axis: int, spacing: Sequence[float], settings: PlannerSettings) -> list[int]:
    trial = list(topology.patch_size)
    trial[axis] -= topology.divisor[axis]
    # The shorter patch may have fewer poolings, and then a smaller step is enough.
    step = derive_topology(spacing, trial, settings).divisor[axis]
    size = list(topology.patch_size)
    size[axis] -= step
    return size
