"""Sharpening: edges are emphasised by the discrete Laplacian."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability, check_range, chosen_channels, uniform


@dataclass(frozen=True)
class SharpenParams:
    """Strength per channel; 0 leaves one as it is."""

    strengths: tuple[float, ...]


@dataclass(frozen=True)
class Sharpen:
    """Add strength·(2·axes·x - sum of the neighbours along all axes) to each chosen channel; borders are repeated.

    Args:
        probability: share of samples in which channels may be sharpened.
        channel_probability: share of channels that then are.
        strength: range of the strength.
    """

    probability: float = 0.2
    channel_probability: float = 0.5
    strength: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        check_probability("sharpen.probability", self.probability)
        check_probability("sharpen.channel_probability", self.channel_probability)
        check_range("sharpen.strength", self.strength, minimum=0)

    def sample(self, rng: np.random.Generator, context: Context) -> SharpenParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        chosen = chosen_channels(rng, self.channel_probability, context)
        strengths = tuple(uniform(rng, self.strength) if acts else 0.0 for acts in chosen)
        return SharpenParams(strengths) if any(chosen) else None

    def apply(self, image: Tensor, labels: Tensor, params: SharpenParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with the chosen channels sharpened, and `labels` as they are."""
        for channel, strength in zip(image, params.strengths, strict=True):
            if strength:
                channel.add_(_edges(channel), alpha=strength)
        return image, labels


def _edges(volume: Tensor) -> Tensor:
    """The negative discrete Laplacian of `volume` (*spatial)."""
    edges = torch.zeros_like(volume)
    for axis, size in enumerate(volume.shape):
        if size > 1:
            step = volume.narrow(axis, 1, size - 1) - volume.narrow(axis, 0, size - 1)
            edges.narrow(axis, 1, size - 1).add_(step)
            edges.narrow(axis, 0, size - 1).sub_(step)
    return edges
