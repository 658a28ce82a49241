"""Multiplicative brightness."""

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
        return image * per_channel(params.factors, image), labels
