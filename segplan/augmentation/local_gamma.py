"""A gamma curve that acts most around one place."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.bump import Bump, bump_field, draw_bump
from segplan.augmentation.transform import Context, check_probability, check_range, chosen_channels, uniform


@dataclass(frozen=True)
class LocalGammaParams:
    """Per channel the bump and the exponent at its peak, or None."""

    bumps: tuple[tuple[Bump, float] | None, ...]


@dataclass(frozen=True)
class LocalGamma:
    """Blend each chosen channel with its gamma curve, by the height of a Gaussian bump.

    Args:
        probability: share of samples in which channels may change.
        channel_probability: share of channels that then do.
        brighten: range of exponents below 1, drawn half of the time.
        darken: range of exponents above 1, drawn otherwise.
        centre: range of the peak along each axis, as a share of the patch; it may lie outside.
    """

    probability: float = 0.3
    channel_probability: float = 0.5
    brighten: tuple[float, float] = (0.01, 0.8)
    darken: tuple[float, float] = (1.5, 4.0)
    centre: tuple[float, float] = (-0.5, 1.5)

    def __post_init__(self) -> None:
        check_probability("local_gamma.probability", self.probability)
        check_probability("local_gamma.channel_probability", self.channel_probability)
        check_range("local_gamma.brighten", self.brighten, minimum=1e-3)
        check_range("local_gamma.darken", self.darken, minimum=1e-3)
        check_range("local_gamma.centre", self.centre)

    def sample(self, rng: np.random.Generator, context: Context) -> LocalGammaParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        chosen = chosen_channels(rng, self.channel_probability, context)
        drawn = tuple(self._draw(rng, context) if acts else None for acts in chosen)
        return LocalGammaParams(drawn) if any(drawn) else None

    def apply(self, image: Tensor, labels: Tensor, params: LocalGammaParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with the chosen channels bent, and `labels` as they are."""
        for channel, drawn in zip(image, params.bumps, strict=True):
            if drawn:
                _bend_(channel, *drawn)
        return image, labels

    def _draw(self, rng: np.random.Generator, context: Context) -> tuple[Bump, float]:
        gamma = uniform(rng, self.brighten if rng.random() < 0.5 else self.darken)
        return draw_bump(rng, context, self.centre), gamma


def _bend_(volume: Tensor, bump: Bump, gamma: float) -> None:
    """Replace x, scaled to [0, 1], by x + bump·(x^γ - x), in place."""
    low, high = torch.aminmax(volume)
    span = (high - low).clamp(min=1e-7)
    unit = volume.sub_(low).div_(span)
    bent = unit.log2().mul_(gamma).exp2_()
    unit.add_(bent.sub_(unit).mul_(bump_field(bump, volume)))
    unit.mul_(span).add_(low)
