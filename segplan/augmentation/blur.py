"""Gaussian blur, separable, with its own width per channel and axis."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.transform import (
    Context,
    as_3d_array,
    can_compile,
    check_probability,
    check_range,
    uniform,
)


@dataclass(frozen=True)
class BlurParams:
    """Per channel the σ of each spatial axis in voxels, or None where the channel stays sharp."""

    sigmas: tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True)
class GaussianBlur:
    """Blur each chosen channel with σ ~ U(sigma) voxels, drawn for every channel and axis.

    Args:
        probability: share of samples in which channels may be blurred.
        channel_probability: share of channels that then are.
        sigma: range of σ in voxels.
        same_for_axes: draw one σ a channel for all its axes.
    """

    probability: float = 0.2
    channel_probability: float = 0.5
    sigma: tuple[float, float] = (0.5, 1.0)
    same_for_axes: bool = False

    def __post_init__(self) -> None:
        check_probability("blur.probability", self.probability)
        check_probability("blur.channel_probability", self.channel_probability)
        check_range("blur.sigma", self.sigma, minimum=1e-3)

    def sample(self, rng: np.random.Generator, context: Context) -> BlurParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        chosen = [rng.random() < self.channel_probability for _ in range(context.channels)]
        if not any(chosen):
            return None
        return BlurParams(tuple(self._sigmas(rng, len(context.patch_size)) if acts else None for acts in chosen))

    def _sigmas(self, rng: np.random.Generator, axes: int) -> tuple[float, ...]:
        if self.same_for_axes:
            return (uniform(rng, self.sigma),) * axes
        return tuple(uniform(rng, self.sigma) for _ in range(axes))

    def apply(self, image: Tensor, labels: Tensor, params: BlurParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with the chosen channels blurred, and `labels` as they are."""
        for channel, sigmas in zip(image, params.sigmas, strict=True):
            if sigmas and can_compile(channel):
                _blur_compiled_(channel, sigmas)
            elif sigmas:
                channel.copy_(blur(channel, sigmas))
        return image, labels


def blur(volume: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    """Convolve `volume` (*spatial) with a Gaussian of its own σ (voxels) along each axis; borders are reflected.

    The kernel has the odd length nearest to 6σ + 0.5 and sums to 1 (nnU-Net 2.8.1).
    """
    for axis, sigma in enumerate(sigmas):
        volume = _blur_axis(volume, axis, sigma)
    return volume


def _kernel(sigma: float) -> list[float]:
    """The kernel's weights from its middle outwards; both sides together sum to 1."""
    radius = math.floor((6 * sigma + 0.5) / 2)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]


def _blur_compiled_(volume: Tensor, sigmas: tuple[float, ...]) -> None:
    from segplan.augmentation.kernels import blur_along  # imports numba, which takes half a second

    array = as_3d_array(volume)
    for axis, sigma in enumerate(sigmas, start=3 - len(sigmas)):
        blur_along(array, axis, np.array(_kernel(sigma), np.float32))


def _blur_axis(volume: Tensor, axis: int, sigma: float) -> Tensor:
    weights = _kernel(sigma)
    radius = len(weights) - 1
    size = volume.shape[axis]
    padded = _pad_reflected(volume, axis, radius)
    # A sum of shifted copies: on a CPU 20 times faster than torch's convolution of one channel.
    result = padded.narrow(axis, radius, size) * weights[0]
    for offset in range(1, radius + 1):
        for start in (radius - offset, radius + offset):
            result.add_(padded.narrow(axis, start, size), alpha=weights[offset])
    return result


def _pad_reflected(volume: Tensor, axis: int, radius: int) -> Tensor:
    size = volume.shape[axis]
    if size > radius:
        before = volume.narrow(axis, 1, radius).flip(axis)
        after = volume.narrow(axis, size - 1 - radius, radius).flip(axis)
        return torch.cat([before, volume, after], axis)
    # The kernel is wider than the axis: reflect to and fro.
    period = max(2 * (size - 1), 1)
    positions = torch.arange(-radius, size + radius, device=volume.device).remainder(period)
    return volume.index_select(axis, torch.minimum(positions, period - positions) if size > 1 else positions)
