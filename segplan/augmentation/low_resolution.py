"""Simulated low resolution: fewer voxels by nearest neighbour, and back by linear interpolation."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from segplan.augmentation.transform import (
    Context,
    as_3d_array,
    can_compile,
    check_probability,
    check_range,
    uniform,
)


@dataclass(frozen=True)
class LowResolutionParams:
    """Per channel the zoom of each spatial axis, or None where the channel keeps its resolution."""

    zooms: tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True)
class LowResolution:
    """Sample each chosen channel down by one zoom ~ U(zoom) for all axes, then up again.

    In dummy-2D, axis 0 keeps its resolution: its voxels are thick already.

    Args:
        probability: share of samples in which channels may lose resolution.
        channel_probability: share of channels that then do.
        zoom: range of the zoom; 0.5 halves the number of voxels along an axis.
    """

    probability: float = 0.25
    channel_probability: float = 0.5
    zoom: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        check_probability("low_resolution.probability", self.probability)
        check_probability("low_resolution.channel_probability", self.channel_probability)
        check_range("low_resolution.zoom", self.zoom, minimum=1e-3)

    def sample(self, rng: np.random.Generator, context: Context) -> LowResolutionParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        zooms = [
            self._zooms(uniform(rng, self.zoom), context) if rng.random() < self.channel_probability else None
            for _ in range(context.channels)
        ]
        return LowResolutionParams(tuple(zooms)) if any(zooms) else None

    def apply(self, image: Tensor, labels: Tensor, params: LowResolutionParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with the chosen channels coarsened, and `labels` as they are."""
        for channel, zooms in zip(image, params.zooms, strict=True):
            if zooms and can_compile(channel):
                _low_resolution_compiled_(channel, zooms)
            elif zooms:
                channel.copy_(low_resolution(channel, zooms))
        return image, labels

    @staticmethod
    def _zooms(zoom: float, context: Context) -> tuple[float, ...]:
        axes = len(context.patch_size)
        return (1.0, *(zoom,) * (axes - 1)) if context.dummy_2d else (zoom,) * axes


def low_resolution(volume: Tensor, zooms: tuple[float, ...]) -> Tensor:
    """Resize `volume` (*spatial) to round(zoom·size) by nearest-exact, then back linearly (corners not aligned)."""
    sizes = _coarse_sizes(volume, zooms)
    coarse: Tensor = functional.interpolate(volume[None, None], sizes, mode="nearest-exact")[0, 0]
    # Axis by axis, the last first, so that the later passes mix whole contiguous rows: a third of trilinear's time.
    for axis in reversed(range(volume.ndim)):
        coarse = _resize_axis(coarse, axis, volume.shape[axis])
    return coarse


def _coarse_sizes(volume: Tensor, zooms: tuple[float, ...]) -> list[int]:
    return [max(1, round(zoom * size)) for zoom, size in zip(zooms, volume.shape, strict=True)]


def _low_resolution_compiled_(volume: Tensor, zooms: tuple[float, ...]) -> None:
    from segplan.augmentation.kernels import coarsen  # imports numba, which takes half a second

    nearest, below, fractions = [], [], []
    array = as_3d_array(volume)
    for size, coarse in zip(array.shape, (1, *_coarse_sizes(volume, zooms))[-3:], strict=True):
        voxels = torch.arange(size, dtype=torch.float64)[None, None]  # torch's own rule tells which voxels are taken
        nearest.append(functional.interpolate(voxels, coarse, mode="nearest-exact")[0, 0].long().numpy())
        lower, fraction = _linear(coarse, size, volume)
        below.append(lower.numpy())
        fractions.append(fraction.numpy())
    coarsen(array, tuple(nearest), tuple(below), tuple(fractions))


def _linear(old: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """For each of `size` positions the lower of its `old` neighbours and the weight of the upper one."""
    steps = torch.arange(size, device=like.device, dtype=like.dtype)
    positions = ((steps + 0.5) * (old / size) - 0.5).clamp_(min=0)
    below = positions.floor().long().clamp_(max=old - 1)
    return below, positions - below


def _resize_axis(volume: Tensor, axis: int, size: int) -> Tensor:
    old = volume.shape[axis]
    if old == size:
        return volume
    below, fraction = _linear(old, size, volume)
    above = (below + 1).clamp_(max=old - 1)
    if axis == volume.ndim - 1:
        # Along the contiguous axis a product with the (old, size) interpolation matrix beats a gather.
        matrix = volume.new_zeros(old, size)
        columns = torch.arange(size, device=volume.device)
        matrix[below, columns] += 1 - fraction
        matrix[above, columns] += fraction
        return volume @ matrix
    weight = fraction.view(-1, *(1,) * (volume.ndim - 1 - axis))
    return torch.lerp(volume.index_select(axis, below), volume.index_select(axis, above), weight)
