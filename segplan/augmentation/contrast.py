"""Contrast about the channel's mean, within the channel's range."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segplan.augmentation.brightness import FactorParams
from segplan.augmentation.transform import Context, check_probability, check_range, per_channel, uniform_around_one


@dataclass(frozen=True)
class Contrast:
    """Stretch or squeeze each channel about its mean in the patch, clipped to its old minimum and maximum.

    Args:
        probability: share of samples.
        factor: range of the factors, drawn per channel, below 1 as often as above.
    """

    probability: float = 0.15
    factor: tuple[float, float] = (0.75, 1.25)

    def __post_init__(self) -> None:
        check_probability("contrast.probability", self.probability)
        check_range("contrast.factor", self.factor, minimum=0)

    def sample(self, rng: np.random.Generator, context: Context) -> FactorParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        return FactorParams(tuple(uniform_around_one(rng, self.factor) for _ in range(context.channels)))

    def apply(self, image: Tensor, labels: Tensor, params: FactorParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with changed contrast and `labels` as they are."""
        return contrast(image, params.factors), labels


def contrast(image: Tensor, factors: tuple[float, ...]) -> Tensor:
    """Return clip((x - mean)·factor + mean, min, max) for each channel of `image` (C, *spatial)."""
    axes = tuple(range(1, image.ndim))
    mean = image.mean(axes, keepdim=True)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    stretched = (image - mean).mul_(per_channel(factors, image)).add_(mean)
    return stretched.clamp_(min=low, max=high)
