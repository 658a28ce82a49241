"""Brightness that grows or falls towards a place, as near a receiver coil."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segplan.augmentation.bump import Bump, bump_field, draw_bump
from segplan.augmentation.transform import Context, check_probability, check_range, chosen_channels, uniform


@dataclass(frozen=True)
class GradientParams:
    """Per channel the bump and what is added at its peak, or None."""

    bumps: tuple[tuple[Bump, float] | None, ...]


@dataclass(frozen=True)
class BrightnessGradient:
    """Add a Gaussian bump, with either sign, to each chosen channel.

    Args:
        probability: share of samples in which channels may change.
        channel_probability: share of channels that then do.
        strength: range of what is added at the peak, in units of the normalised image; the sign is drawn.
        centre: range of the peak along each axis, as a share of the patch; it may lie outside.
    """

    probability: float = 0.3
    channel_probability: float = 0.5
    strength: tuple[float, float] = (1.0, 5.0)
    centre: tuple[float, float] = (-0.5, 1.5)

    def __post_init__(self) -> None:
        check_probability("brightness_gradient.probability", self.probability)
        check_probability("brightness_gradient.channel_probability", self.channel_probability)
        check_range("brightness_gradient.strength", self.strength)
        check_range("brightness_gradient.centre", self.centre)

    def sample(self, rng: np.random.Generator, context: Context) -> GradientParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        chosen = chosen_channels(rng, self.channel_probability, context)
        drawn = tuple(self._draw(rng, context) if acts else None for acts in chosen)
        return GradientParams(drawn) if any(drawn) else None

    def apply(self, image: Tensor, labels: Tensor, params: GradientParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with the bumps added, and `labels` as they are."""
        for channel, drawn in zip(image, params.bumps, strict=True):
            if drawn:
                channel.add_(bump_field(drawn[0], channel), alpha=drawn[1])
        return image, labels

    def _draw(self, rng: np.random.Generator, context: Context) -> tuple[Bump, float]:
        sign = -1 if rng.random() < 0.5 else 1
        return draw_bump(rng, context, self.centre), sign * uniform(rng, self.strength)
