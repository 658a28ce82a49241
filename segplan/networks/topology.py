"""Whether the lists that describe a U-Net fit together."""

from collections.abc import Sequence

from segplan.errors import ConfigError
from segplan.networks.blocks import CONV


def check_topology(
    features: Sequence[int], strides: Sequence[Sequence[int]], kernel_sizes: Sequence[Sequence[int]]
) -> None:
    """Refuse lists of different lengths, or entries with the wrong number of axes.

    Args:
        features: channels of each stage.
        strides: of each stage, per axis.
        kernel_sizes: of each stage, per axis.

    Raises:
        ConfigError: says what does not fit.
    """
    stages = len(features)
    if stages < 2 or len(strides) != stages or len(kernel_sizes) != stages:
        raise ConfigError(
            f"network.features, strides and kernel_sizes have {stages}, {len(strides)} and {len(kernel_sizes)} entries",
            remedy="Give each one entry a stage, for at least 2 stages.",
        )
    axes = len(strides[0])
    if axes not in CONV or any(len(entry) != axes for entry in (*strides, *kernel_sizes)):
        raise ConfigError(
            "entries of network.strides and network.kernel_sizes differ in their number of axes",
            remedy="Give 2 numbers each for a 2D network, 3 for a 3D one.",
        )
    if any(step != 1 for step in strides[0]):
        remedy = "The first stage must not downsample: use ones."
        raise ConfigError(f"is {list(strides[0])}", "network.strides[0]", remedy)


def check_blocks(blocks_per_stage: Sequence[int], stages: int) -> None:
    """Refuse a number of entries other than that of the `stages`.

    Raises:
        ConfigError: says what does not fit.
    """
    if len(blocks_per_stage) != stages:
        raise ConfigError(
            f"network.blocks_per_stage has {len(blocks_per_stage)} entries, features {stages}",
            remedy="Give a number of blocks for each stage.",
        )
