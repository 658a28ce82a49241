"""Additive Gaussian noise."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability, check_range, seed_from, uniform

_PIECE = 2**15


@dataclass(frozen=True)
class NoiseParams:
    """Standard deviation and the seed of the noise field."""

    std: float
    seed: int


@dataclass(frozen=True)
class GaussianNoise:
    """Add noise of one standard deviation ~ U(std) to all channels, drawn independently for each voxel and channel.

    Args:
        probability: share of samples with noise.
        std: range of the standard deviation, in units of the normalised image. nnU-Net 2.8.1 calls this number a
            variance and uses it as a standard deviation; here it is named for what it does.
    """

    probability: float = 0.1
    std: tuple[float, float] = (0.0, 0.1)

    def __post_init__(self) -> None:
        check_probability("noise.probability", self.probability)
        check_range("noise.std", self.std, minimum=0)

    def sample(self, rng: np.random.Generator, context: Context) -> NoiseParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        return NoiseParams(std=uniform(rng, self.std), seed=seed_from(rng))

    def apply(self, image: Tensor, labels: Tensor, params: NoiseParams) -> tuple[Tensor, Tensor]:
        """Return the noisy `image` (C, *spatial) and `labels` as they are."""
        return gaussian_noise_(image, params.std, params.seed), labels


def gaussian_noise_(image: Tensor, std: float, seed: int) -> Tensor:
    """Add N(0, std²) to `image` (C, *spatial) in place; the field depends on seed, shape and kind of device alone."""
    generator = torch.Generator(device=image.device).manual_seed(seed)
    # On a CPU in pieces that stay in the cache; their size is a multiple of what torch draws at a time.
    flat = image.view(-1)
    length = _PIECE if image.device.type == "cpu" else len(flat)
    for start in range(0, len(flat), length):
        piece = flat[start : start + length]
        field = torch.randn(piece.shape, generator=generator, device=image.device, dtype=image.dtype)
        piece.add_(field, alpha=std)
    return image
