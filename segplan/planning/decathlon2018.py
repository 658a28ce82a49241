"""The method's first rules, of the Medical Segmentation Decathlon 2018 (Isensee et al., arXiv 1809.10486).

Patch and batch go by voxels, not by an estimate of memory; poolings go by size alone, and all kernels are 3 wide. What
the published text leaves open, and how it is decided here, stands in docs/method.md.
"""

import math
from collections.abc import Sequence
from types import MappingProxyType

from segplan.planning.budget import batch_cap
from segplan.planning.configured import Configured, PatchStep, Resolution
from segplan.planning.memory import count_features
from segplan.planning.settings import PlannerSettings
from segplan.planning.spacing import Triple
from segplan.planning.topology import Topology, fitted


def configure_by_voxels(resolution: Resolution, settings: PlannerSettings) -> Configured:
    """The median slice in 2D, at most the voxels of the initial patch in 3D."""
    axes, median_shape = resolution.axes, resolution.median_shape
    topology = pool_by_size(_patch(median_shape, settings), settings)
    voxels = math.prod(topology.patch_size)
    affordable = math.floor(_batch_voxels(axes, settings) / voxels)
    cap = batch_cap(resolution, topology.patch_size, settings)
    count = count_features(topology.patch_size, topology.strides, resolution.label_count, settings)
    return Configured(
        topology=topology,
        features=settings.stage_features(topology.stages, axes),
        batch_size=max(min(affordable, cap), settings.min_batch_size),
        feature_count=count,
        steps=(PatchStep(topology.patch_size, float(count), None),),
        affordable_batch=affordable,
        batch_cap=cap,
        reasons=MappingProxyType(_reasons(median_shape, affordable, cap, settings)),
    )


def pool_by_size(size: Sequence[float], settings: PlannerSettings) -> Topology:
    """Halve each axis while it has twice the smallest edge; all axes start at once, the longest goes on alone."""
    remaining, strides = list(size), [(1,) * len(size)]
    while len(strides) <= settings.max_poolings(len(size)):
        stride = tuple(2 if edge >= 2 * settings.min_bottleneck_edge else 1 for edge in remaining)
        if max(stride) == 1:
            break
        strides.append(stride)
        remaining = [math.ceil(edge / step) for edge, step in zip(remaining, stride, strict=True)]
    return fitted(size, strides, [(3,) * len(size)] * len(strides))


def double(spacing: Sequence[float], settings: PlannerSettings) -> Triple:
    """One step to the spacing of 3d_lowres: axes that it brings no further than the coarsest grow first, then all."""
    step = settings.lowres_spacing_step
    finer = [value * step <= max(spacing) for value in spacing]
    z, y, x = (value * step if grows or not any(finer) else value for value, grows in zip(spacing, finer, strict=True))
    return z, y, x


def _patch(median_shape: Sequence[float], settings: PlannerSettings) -> list[float]:
    median = [edge or 1 for edge in median_shape]
    edge, voxels = settings.initial_patch_edge_3d, math.prod(median)
    if len(median) == 2 or voxels <= edge**3:
        return list(median)
    if all(size > edge for size in median):
        return [edge] * 3
    scale = (edge**3 / voxels) ** (1 / 3)
    return [max(1, round(size * scale)) for size in median]


def _batch_voxels(axes: int, settings: PlannerSettings) -> int:
    if axes == 2:
        return settings.batch_pixels_2d
    return settings.reference_batch_size_3d * settings.initial_patch_edge_3d**3


def _reasons(median_shape: Sequence[float], affordable: int, cap: int, settings: PlannerSettings) -> dict[str, str]:
    axes, edge = len(median_shape), settings.initial_patch_edge_3d
    if axes == 2:
        patch, budget = "the median slice", f"{settings.batch_pixels_2d} pixels a batch"
    elif math.prod(median_shape) <= edge**3:
        patch, budget = (
            f"the median image, not above {edge}³ voxels",
            f"{settings.reference_batch_size_3d} × {edge}³ voxels a batch",
        )
    else:
        whole = all(size > edge for size in median_shape)
        shape = f"{edge}³, as every axis of the median image is longer" if whole else f"{edge}³ voxels in its aspect"
        patch, budget = shape, f"{settings.reference_batch_size_3d} × {edge}³ voxels a batch"
    share = f"{settings.max_dataset_fraction * 100:g} % of the dataset's voxels"
    if min(affordable, cap) < settings.min_batch_size:
        batch = f"the minimum; {budget} would be {affordable}, {share} {cap}"
    elif cap < affordable:
        batch = f"{share}; {budget} would be {affordable}"
    else:
        batch = f"{budget}, rounded down"
    limit = settings.max_poolings(axes)
    at_most = "" if math.isinf(limit) else f", at most {limit:g} times"
    return {
        "patch_size": f"{patch}, rounded up to the strides",
        "batch_size": batch,
        "strides": f"each axis is halved until below {2 * settings.min_bottleneck_edge} voxels{at_most}",
        "kernel_sizes": "3 wide on every axis",
    }
