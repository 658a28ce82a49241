"""Compare what a plan's network costs with what the others would cost on the same patch."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from segplan.jobs.console import print_table
from segplan.jobs.instantiate import instantiate
from segplan.jobs.network_node import is_own_network, network_node
from segplan.jobs.training_setup import patch_sizes
from segplan.networks import PlainUNet, ResidualUNet, STUNet
from segplan.networks.cost import Cost, cost_of
from segplan.planning import PRESETS, check_patch

_HEADER = ("network", "parameters", "multiply-adds", "activations", "weights", "receptive field")
_WEIGHT_COPIES = 3  # weight, gradient, momentum
_PATCH = "patch"
_NOTE = """multiply-adds: of one patch, forward; activations: kept for the gradients of a batch, float32 (bf16: half);
weights: with gradients and momentum. network.activation_checkpointing=true keeps fewer activations."""


def run(config: Mapping[str, Any]) -> int:
    """Print a row for the plan's own network and for each of segplan's on the plan's patch; returns the exit code.

    Args:
        config: the composed configuration, nodes `plan`, `data` and `network`.

    Raises:
        ConfigError: the patch does not fit the plan's network, or that cannot be built.
    """
    patch, batch = patch_sizes(config["data"]["patch_size"]), int(config["data"]["batch_size"])
    channels, classes = int(config["plan"]["input_channels"]), int(config["plan"]["num_classes"])
    own = network_node(config["network"])
    networks: dict[str, Callable[[], nn.Module]] = {
        f"plan's: {str(own['_target_']).rpartition('.')[2]}": functools.partial(instantiate, own)
    }
    if "strides" in config["network"]:
        if is_own_network(str(own["_target_"])):
            check_patch(patch, config["network"]["strides"])
        networks |= _alternatives(config["network"], channels, classes)
    rows = [[name, *_cells(build, channels, patch, batch)] for name, build in networks.items()]
    print(f"patch {_times(patch)} · batch {batch} · {channels} in · {classes} out")
    print_table(_HEADER, rows)
    print(_NOTE)
    return 0


def _cells(build: Callable[[], nn.Module], channels: int, patch: Sequence[int], batch: int) -> list[str]:
    try:
        cost = cost_of(build, channels, patch)
    except (RuntimeError, NotImplementedError) as error:  # a network of the user's own may look at values
        return [f"cannot be measured ({str(error).splitlines()[0][:60]})", "", "", "", ""]
    return _row(cost, patch, batch)


def _row(cost: Cost, patch: Sequence[int], batch: int) -> list[str]:
    field = [_PATCH if reach >= size else str(reach) for reach, size in zip(cost.receptive_field, patch, strict=True)]
    return [
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.multiply_adds / 1e12:.4f} T",
        f"{cost.activation_bytes * batch / 2**30:.2f} GB",
        f"{cost.parameters * 4 * _WEIGHT_COPIES / 2**30:.2f} GB",
        "whole patch" if set(field) == {_PATCH} else "×".join(str(reach) for reach in cost.receptive_field),
    ]


def _alternatives(planned: Mapping[str, Any], channels: int, classes: int) -> dict[str, Callable[[], nn.Module]]:
    """The networks of segplan with the plan's poolings and kernels, as its planners would set them up."""
    strides = [list(stride) for stride in planned["strides"]]
    axes = len(strides[0])
    kernels = planned.get("kernel_sizes") or [[3] * axes] * len(strides)
    plain, residual = PRESETS["default"], PRESETS["resenc_m"]
    features = plain.stage_features(len(strides), axes)
    shared: dict[str, Any] = {"features": features, "strides": strides, "kernel_sizes": kernels}
    blocks = residual.stage_blocks(len(strides))
    networks: dict[str, Callable[[], nn.Module]] = {
        "plain U-Net": functools.partial(PlainUNet, channels, classes, **shared),
        "residual-encoder U-Net": functools.partial(
            ResidualUNet, channels, classes, **shared, blocks_per_stage=blocks, convs_per_stage_decoder=1
        ),
    }
    for size in "sblh":
        preset = PRESETS[f"stunet_{size}"]
        stages = len(preset.stunet_features)
        pools = (strides + [[1] * axes] * stages)[:stages]
        networks[f"STU-Net {size.upper()}"] = functools.partial(
            STUNet, channels, classes, preset.stunet_features, preset.stunet_blocks_per_stage, pools
        )
    return networks


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
