"""Additive brightness."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability, check_range, chosen_channels, per_channel


@dataclass(frozen=True)
class ShiftParams:
    """What is added to each channel."""

    shifts: tuple[float, ...]


@dataclass(frozen=True)
class BrightnessShift:
    """Add one number ~ N(0, std²) to each chosen channel.

    Args:
        probability: share of samples in which channels may be shifted.
        channel_probability: share of channels that then are.
        std: standard deviation of the shift, in units of the normalised image.
    """

    probability: float = 0.1
    channel_probability: float = 0.5
    std: float = 0.5

    def __post_init__(self) -> None:
        check_probability("brightness_shift.probability", self.probability)
        check_probability("brightness_shift.channel_probability", self.channel_probability)
        check_range("brightness_shift.std", (self.std, self.std), minimum=0)

    def sample(self, rng: np.random.Generator, context: Context) -> ShiftParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        chosen = chosen_channels(rng, self.channel_probability, context)
        shifts = tuple(float(rng.normal(0, self.std)) if acts else 0.0 for acts in chosen)
        return ShiftParams(shifts) if any(chosen) else None

    def apply(self, image: Tensor, labels: Tensor, params: ShiftParams) -> tuple[Tensor, Tensor]:
        """Return the shifted `image` (C, *spatial) and `labels` as they are."""
        return image.add_(per_channel(params.shifts, image)), labels
