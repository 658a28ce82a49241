"""Patch size, batch size and network of one configuration, from its spacing and the median image."""

from segplan.planning.budget import configure_by_budget
from segplan.planning.configured import Configured, Probe, Resolution
from segplan.planning.decathlon2018 import configure_by_voxels
from segplan.planning.measured import configure_by_measuring
from segplan.planning.repair import mended
from segplan.planning.settings import PlannerSettings


def configure(resolution: Resolution, settings: PlannerSettings, probe: Probe | None = None) -> Configured:
    """Apply the planner's rules to one configuration.

    Args:
        resolution: what it is planned from.
        settings: the planner's constants.
        probe: measures a training step; without it the memory is estimated.

    Raises:
        ConfigError: not even a patch of one voxel would fit the budget.
    """
    if settings.rules == "decathlon2018":
        configured = configure_by_voxels(resolution, settings)
    elif probe is not None:
        configured = configure_by_measuring(resolution, settings, probe)
    else:
        configured = configure_by_budget(resolution, settings)
    return mended(configured, resolution, settings) if settings.repair else configured
