"""The planned network in numbers: its arguments, parameters and memory, and what to heed before training it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from segplan.planning.configured import Configured, Measure, Trial
from segplan.planning.memory import count_parameters, estimate_gigabytes
from segplan.planning.settings import PlannerSettings
from segplan.planning.stunet import count_stunet_parameters, parameter_gigabytes
from segplan.planning.topology import Topology

_USUAL_CONVS = {
    "plain_unet": {"convs_per_stage": 2, "convs_per_stage_decoder": 2},
    "residual_unet": {"convs_per_stage_decoder": 1},
    "stunet": {},
}


@dataclass(frozen=True)
class PlannedNetwork:
    """Arguments beside `input_channels` and `num_classes`, which the group derives; parameters; memory in GB."""

    arguments: Mapping[str, Any]
    parameters: int
    memory_gb: float
    measured_gb: float | None
    warning: str | None


def planned_network(
    configured: Configured, input_channels: int, heads: int, settings: PlannerSettings, measure: Measure | None
) -> PlannedNetwork:
    """Count what the network of a configuration needs; with `measure`, run a training step of it too."""
    topology, axes = configured.topology, len(configured.topology.patch_size)
    memory = estimate_gigabytes(configured.feature_count, configured.batch_size, axes, settings)
    if settings.network == "stunet":
        parameters = count_stunet_parameters(input_channels, heads, settings)
        memory += parameter_gigabytes(parameters)
    else:
        parameters = count_parameters(input_channels, heads, topology.strides, topology.kernel_sizes, settings)
    taken = None
    if measure is not None:
        whole = {"input_channels": input_channels, "num_classes": heads}
        whole |= network_arguments(topology, configured.features, settings)
        taken = measure(Trial(settings.network, tuple(whole.items()), topology.patch_size, configured.batch_size))
        taken /= 2**30
    return PlannedNetwork(
        arguments=MappingProxyType(network_arguments(topology, configured.features, settings)),
        parameters=parameters,
        memory_gb=memory,
        measured_gb=taken if taken is not None and math.isfinite(taken) else None,
        warning=_warning(memory if taken is None else taken, configured, settings),
    )


def network_arguments(topology: Topology, features: tuple[int, ...], settings: PlannerSettings) -> dict[str, Any]:
    """What a plan tells the network beyond what its group says."""
    arguments: dict[str, Any] = {"strides": topology.strides}
    if settings.network != "stunet":
        arguments["kernel_sizes"] = topology.kernel_sizes
    arguments["features"] = features
    if settings.network == "residual_unet":
        arguments["blocks_per_stage"] = settings.stage_blocks(topology.stages)
    elif settings.network == "stunet":
        arguments["blocks_per_stage"] = settings.stunet_blocks_per_stage
    # What the network's group says already need not be repeated.
    for name, usual in _USUAL_CONVS[settings.network].items():
        if getattr(settings, name) != usual:
            arguments[name] = getattr(settings, name)
    return arguments


def _warning(memory: float, configured: Configured, settings: PlannerSettings) -> str | None:
    """Only where memory does not decide the patch; elsewhere the plan fits by its rule."""
    sized = settings.rules == "memory_budget" and settings.network != "stunet" and not configured.repaired
    if sized or memory <= settings.gpu_memory_gb:
        return None
    needs = f"needs about {memory:.0f} GB" if math.isfinite(memory) else "does not fit, as measured"
    return (
        f"{needs}, planner.gpu_memory_gb is {settings.gpu_memory_gb:g}: train with "
        "network.activation_checkpointing=true (less memory, more time) or a smaller data.batch_size"
    )
