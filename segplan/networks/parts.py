"""The parts of a network by the names of its parameters, and its switch for deep supervision."""

from typing import Literal, get_args

from torch import nn

Part = Literal["encoder", "decoder", "heads", "other"]
PARTS: tuple[Part, ...] = get_args(Part)
"""`other`: whatever a network that is none of segplan's names differently."""

INPUT_LAYERS = frozenset(
    {
        "encoder.stages.0.0.convs.0.conv.weight",
        "encoder.stem.convs.0.conv.weight",
        "conv_blocks_context.0.0.conv1.weight",
        "conv_blocks_context.0.0.conv3.weight",
    }
)
"""Weights (C_out, C_in, *kernel) that see the image's channels."""

_PREFIXES: tuple[tuple[str, Part], ...] = (
    ("decoder.seg_layers.", "heads"),
    ("seg_outputs.", "heads"),
    ("encoder.", "encoder"),
    ("conv_blocks_context.", "encoder"),
    ("decoder.", "decoder"),
    ("upsample_layers.", "decoder"),
    ("conv_blocks_localization.", "decoder"),
)


def part_of(name: str) -> Part:
    """The part that the parameter `name` belongs to."""
    return next((part for prefix, part in _PREFIXES if name.startswith(prefix)), "other")


def set_deep_supervision(network: nn.Module, on: bool) -> None:
    """Switch a network between the logits of all resolutions and those of the highest.

    One whose class has no `switches_deep_supervision = True` gives one output whatever is asked for, and is left alone.
    """
    if getattr(type(network), "switches_deep_supervision", False):
        network.deep_supervision = on  # type: ignore[assignment]
