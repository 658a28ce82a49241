"""Whether a low-resolution configuration is worth having, and at which spacing (nnU-Net 2.8.1's search)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segplan.planning.configure import configure
from segplan.planning.configured import Configured, Probe, Resolution
from segplan.planning.decathlon2018 import double
from segplan.planning.reasons import percent
from segplan.planning.settings import PlannerSettings
from segplan.planning.spacing import Triple, coarsen


@dataclass(frozen=True)
class Lowres:
    """The low-resolution configuration: spacing in mm and median size in voxels, both in the network's axis order."""

    spacing: Triple
    median_shape: tuple[int, ...]
    configured: Configured
    steps: int
    coverage: float
    """Share of the median image at full resolution that the full-resolution patch covers."""


def search_lowres(
    fullres: Configured,
    spacing: Triple,
    median_shape: Sequence[float],
    *,
    num_training: int,
    label_count: int,
    settings: PlannerSettings,
    probe: Probe | None = None,
) -> Lowres | str:
    """Coarsen the spacing step by step until a patch covers enough of the median image.

    Args:
        fullres: the full-resolution configuration.
        spacing: its spacing in mm.
        median_shape: voxels of the median image at that spacing.
        num_training: number of training cases, for the cap on the batch.
        label_count: channels of the head counted in the memory estimate.
        settings: the planner's constants.
        probe: as in `configure`; asked for the final spacing alone.

    Returns:
        The configuration, or the reason why there is none.
    """
    voxels = full_voxels = math.prod(median_shape)
    patch_voxels = math.prod(fullres.topology.patch_size)
    coverage = patch_voxels / full_voxels if full_voxels else 1.0
    if coverage >= settings.lowres_patch_fraction:
        return f"not needed: the 3d patch covers {percent(min(coverage, 1))} of the median image"
    coarser = double if settings.rules == "decathlon2018" else coarsen
    low, size, configured, steps = spacing, tuple(round(edge) for edge in median_shape), fullres, 0
    while patch_voxels / voxels < settings.lowres_patch_fraction:
        low = coarser(low, settings)
        exact = [old / new * edge for old, new, edge in zip(spacing, low, median_shape, strict=True)]
        voxels = math.prod(exact)
        size = tuple(_whole(edge, settings) for edge in exact)
        # Each step is estimated, only the last one measured: there may be dozens.
        configured = configure(Resolution(low, size, voxels * num_training, label_count), settings)
        patch_voxels = math.prod(configured.topology.patch_size)
        steps += 1
    if full_voxels / voxels < settings.lowres_min_reduction:
        return (
            f"not needed: a patch covers {percent(settings.lowres_patch_fraction)} of the median image "
            f"already with {percent(voxels / full_voxels)} of its voxels"
        )
    if probe is not None:
        configured = configure(Resolution(low, size, voxels * num_training, label_count), settings, probe)
    return Lowres(low, size, configured, steps, coverage)


def _whole(edge: float, settings: PlannerSettings) -> int:
    return max(round(edge), 1) if settings.repair else round(edge)
