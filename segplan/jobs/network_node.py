"""The `network` node of a configuration: segplan's networks, and classes of the user's own."""

import inspect
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.errors import ConfigError
from segplan.jobs.instantiate import locate

_OWN = "segplan.networks."
PLANNED = frozenset(
    {
        "features",
        "strides",
        "kernel_sizes",
        "convs_per_stage",
        "convs_per_stage_decoder",
        "blocks_per_stage",
        "activation_checkpointing",
        "input_channels",
        "num_classes",
        "width",
        "depth",
    }
)
"""Keys that plans and segplan's networks bring; a class that does not take one is not given it."""


def is_own_network(target: str) -> bool:
    """Whether `_target_` names a network of segplan's."""
    return target.startswith(_OWN)


def network_node(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The node with the keys that its class takes: `_target_` and arguments, plain values.

    Of segplan's networks every key is kept, so that a wrong one is refused. A class of the user's own is not given
    those keys of the plan that it does not take.

    Raises:
        ConfigError: `_target_` cannot be imported, or an argument is itself an object to be built: a model folder
            holds plain values only.
    """
    values: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    target = str(values["_target_"])
    if is_own_network(target):
        return dict(values)
    if _holds_target({key: value for key, value in values.items() if key != "_target_"}):
        remedy = "Write a class of your own that builds it from plain values."
        raise ConfigError("an argument holds a _target_; a model folder holds plain values only", "network", remedy)
    taken = inspect.signature(locate(target)).parameters
    return {key: value for key, value in values.items() if key not in PLANNED or key in taken}


def recorded_network(node: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """What a model folder says of the network: `name` of a class of segplan's, else `target`, and the arguments."""
    values = network_node(node)
    target = str(values.pop("_target_"))
    return {"name": target.rpartition(".")[2], **values} if is_own_network(target) else {"target": target, **values}


def _holds_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(_holds_target(item) for item in value.values())
    return isinstance(value, list) and any(_holds_target(item) for item in value)
