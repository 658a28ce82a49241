"""The smooth change of brightness that the coils of an MR scanner cause."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability, check_range, uniform


@dataclass(frozen=True)
class BiasFieldParams:
    """Coefficients of the polynomial, by the powers of the spatial axes' coordinates."""

    coefficients: tuple[tuple[tuple[int, ...], float], ...]


@dataclass(frozen=True)
class BiasField:
    """Multiply what each channel has above its minimum by exp of a random polynomial, the same for all channels.

    The polynomial has all terms up to `order` in coordinates from -1 to 1 over the patch (van Leemput et al., 1999).
    Counting from the minimum keeps air dark, which a factor on normalised intensities would not.

    Args:
        probability: share of samples.
        coefficient: range of each coefficient. With order 3 in a volume's corner, where it is strongest, 0.3 changes
            the brightness by a factor of about two (one standard deviation), 0.5 of about three and a half.
        order: highest sum of powers.
    """

    probability: float = 0.2
    coefficient: tuple[float, float] = (-0.3, 0.3)
    order: int = 3

    def __post_init__(self) -> None:
        check_probability("bias_field.probability", self.probability)
        check_range("bias_field.coefficient", self.coefficient)
        check_range("bias_field.order", (self.order, self.order), minimum=1)

    def sample(self, rng: np.random.Generator, context: Context) -> BiasFieldParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        powers = itertools.product(range(self.order + 1), repeat=len(context.patch_size))
        terms = [term for term in powers if 0 < sum(term) <= self.order]
        return BiasFieldParams(tuple((term, uniform(rng, self.coefficient)) for term in terms))

    def apply(self, image: Tensor, labels: Tensor, params: BiasFieldParams) -> tuple[Tensor, Tensor]:
        """Return the biased `image` (C, *spatial) and `labels` as they are."""
        field = _polynomial(params.coefficients, image[0]).exp_()
        for channel in image:
            low = channel.amin()
            channel.sub_(low).mul_(field).add_(low)
        return image, labels


def _polynomial(coefficients: tuple[tuple[tuple[int, ...], float], ...], like: Tensor) -> Tensor:
    """Evaluate the polynomial over a volume like `like` (*spatial); along the last axis by Horner's rule."""
    axes = [torch.linspace(-1, 1, size, device=like.device, dtype=like.dtype) for size in like.shape]
    *outer, last = axes
    highest = max(term[-1] for term, _ in coefficients)
    planes = [like.new_zeros(like.shape[:-1]) for _ in range(highest + 1)]
    for term, value in coefficients:
        plane = like.new_full((), value)
        for axis, power in zip(outer, term[:-1], strict=True):
            plane = plane[..., None] * axis**power
        planes[term[-1]].add_(plane)
    result = torch.zeros_like(like)
    for plane in reversed(planes):
        result.mul_(last).add_(plane[..., None])
    return result
