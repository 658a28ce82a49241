"""Activation checkpointing: trade time for memory by computing a part of the network again for its gradients."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def compute(part: Callable[..., Tensor], *inputs: Tensor, checkpointing: bool) -> Tensor:
    """Return `part(*inputs)`; with `checkpointing` keep only the inputs until the gradients are computed.

    The gradients are the same; each part costs a second forward pass (Chen et al., 2016). Parts must be without
    randomness. Where no gradients are taken it changes nothing.
    """
    if not (checkpointing and torch.is_grad_enabled()):
        return part(*inputs)
    result: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


class Join:
    """Upsample, join the skip behind it, convolve: one part, so that the joined tensor is not kept.

    Args:
        up: maps (B, C_below, *spatial / stride) to (B, C, *spatial).
        convolve: what the joined tensor goes through.
    """

    def __init__(self, up: nn.Module, convolve: nn.Module) -> None:
        self.up, self.convolve = up, convolve

    def __call__(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the stage's output from the stage below, `x`, and the skip (B, C, *spatial)."""
        result: Tensor = self.convolve(torch.cat((self.up(x), skip), dim=1))
        return result
