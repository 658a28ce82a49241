"""Multiplicative brightness."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability, check_range, per_channel, uniform_around_one


@dataclass(frozen=True)
class FactorParams:
    """One factor a channel."""

    factors: tuple[float, ...]


@dataclass(frozen=True)
class Brightness:
    """Multiply each channel by its own factor, below 1 as often as above.

    Args:
        probability: share of samples.
        factor: range of the factors.
    """

    probability: float = 0.15
    factor: tuple[float, float] = (0.75, 1.25)

    def __post_init__(self) -> None:
        check_probability("brightness.probability", self.probability)
        check_range("brightness.factor", self.factor, minimum=0)

    def sample(self, rng: np.random.Generator, context: Context) -> FactorParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        return FactorParams(tuple(uniform_around_one(rng, self.factor) for _ in range(context.channels)))

    def apply(self, image: Tensor, labels: Tensor, params: FactorParams) -> tuple[Tensor, Tensor]:
        """Return the scaled `image` (C, *spatial) and `labels` as they are."""
        return image.mul_(per_channel(params.factors, image)), labels

    def apply_batch(self, images: Tensor, labels: Tensor, params: Sequence[FactorParams]) -> tuple[Tensor, Tensor]:
        """As `apply`, for `images` (N, C, *spatial): the channels of all samples at once."""
        images.flatten(0, 1).mul_(per_channel(all_factors(params), images.flatten(0, 1)))
        return images, labels


def all_factors(params: Sequence[FactorParams]) -> tuple[float, ...]:
    """Return the factors of several samples one after another."""
    return tuple(factor for sample in params for factor in sample.factors)
