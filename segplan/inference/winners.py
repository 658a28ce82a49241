"""Which channel of the logits a voxel belongs to, decided some channels at a time on whatever device they are."""

import torch
from torch import Tensor


def nobody(shape: torch.Size | list[int], device: torch.device, *, painted: bool) -> tuple[Tensor, Tensor]:
    """Numbers 0 (int32), and the logits that channels have to beat, to begin `decide` with."""
    best = torch.full(shape, 0.0 if painted else -torch.inf, device=device)
    return torch.zeros(shape, dtype=torch.int32, device=device), best


def decide(logits: Tensor, first: int, so_far: tuple[Tensor, Tensor], *, painted: bool) -> None:
    """Let some channels compete with those before.

    Args:
        logits: (channels, *voxels) float32.
        first: number of the first of them; channels count from 1.
        so_far: (numbers, best) as `nobody` made them, changed. A number is that of the channel with the largest logit,
            the first of equal ones.
        painted: regions instead: the last channel with a positive logit; 0 where there is none.
    """
    numbers, best = so_far
    for number, channel in enumerate(logits, start=first):
        numbers.masked_fill_(channel > best, number)
        if not painted:
            torch.maximum(best, channel, out=best)
