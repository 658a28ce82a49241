"""Contrast about the channel's mean, within the channel's range."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segplan.augmentation.brightness import FactorParams, all_factors
from segplan.augmentation.transform import (
    Context,
    check_probability,
    check_range,
    chosen_channels,
    per_channel,
    uniform_around_one,
)


@dataclass(frozen=True)
class Contrast:
    """Stretch or squeeze each channel about its mean in the patch.

    Args:
        probability: share of samples.
        factor: range of the factors, drawn per channel, below 1 as often as above.
        preserve_range: clip to the channel's old minimum and maximum.
        channel_probability: share of channels that change where the transform acts.
    """

    probability: float = 0.15
    factor: tuple[float, float] = (0.75, 1.25)
    preserve_range: bool = True
    channel_probability: float = 1.0

    def __post_init__(self) -> None:
        check_probability("contrast.probability", self.probability)
        check_range("contrast.factor", self.factor, minimum=0)
        check_probability("contrast.channel_probability", self.channel_probability)

    def sample(self, rng: np.random.Generator, context: Context) -> FactorParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        chosen = chosen_channels(rng, self.channel_probability, context)
        factors = tuple(uniform_around_one(rng, self.factor) if acts else 1.0 for acts in chosen)
        return FactorParams(factors) if any(chosen) else None

    def apply(self, image: Tensor, labels: Tensor, params: FactorParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with changed contrast and `labels` as they are."""
        for channel, factor in zip(image, params.factors, strict=True):
            contrast_(channel[None], (factor,), self.preserve_range)
        return image, labels

    def apply_batch(self, images: Tensor, labels: Tensor, params: Sequence[FactorParams]) -> tuple[Tensor, Tensor]:
        """As `apply`, for `images` (N, C, *spatial): the channels of all samples at once."""
        contrast_(images.flatten(0, 1), all_factors(params), self.preserve_range)
        return images, labels


def contrast_(image: Tensor, factors: tuple[float, ...], preserve_range: bool = True) -> Tensor:
    """Turn each channel of `image` (C, *spatial) into clip((x - mean)·factor + mean, min, max), in place."""
    axes = tuple(range(1, image.ndim))
    mean = image.mean(axes, keepdim=True)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    stretched = image.sub_(mean).mul_(per_channel(factors, image)).add_(mean)
    return stretched.clamp_(min=low, max=high) if preserve_range else stretched
