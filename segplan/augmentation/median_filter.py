"""Median filter: removes speckle and rounds corners, in steps that a blur does not have."""

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
    chosen_channels,
)


@dataclass(frozen=True)
class MedianParams:
    """Window per channel in voxels; 0 leaves one as it is."""

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class MedianFilter:
    """Replace each voxel of the chosen channels by the median of a cube around it.

    An even window reaches one voxel further back; borders are reflected with the border voxel repeated (both as scipy
    does). On a CPU the intensities are sorted into 4096 steps of the channel's range: the error is below what the
    network could see, and the time does not depend on the window's volume.

    Args:
        probability: share of samples in which channels may be filtered.
        channel_probability: share of channels that then are.
        size: range of the window in voxels.
    """

    probability: float = 0.2
    channel_probability: float = 0.5
    size: tuple[int, int] = (2, 7)

    def __post_init__(self) -> None:
        check_probability("median_filter.probability", self.probability)
        check_probability("median_filter.channel_probability", self.channel_probability)
        check_range("median_filter.size", self.size, minimum=1)

    def sample(self, rng: np.random.Generator, context: Context) -> MedianParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        chosen = chosen_channels(rng, self.channel_probability, context)
        sizes = tuple(int(rng.integers(*self.size, endpoint=True)) if acts else 0 for acts in chosen)
        return MedianParams(sizes) if any(sizes) else None

    def apply(self, image: Tensor, labels: Tensor, params: MedianParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with the chosen channels filtered, and `labels` as they are."""
        for channel, size in zip(image, params.sizes, strict=True):
            if size and can_compile(channel):
                from segplan.augmentation.kernels import median_filter

                median_filter(as_3d_array(channel), min(size, 1 if channel.ndim == 2 else size), size)
            elif size:
                channel.copy_(median(channel, size))
        return image, labels


def median(volume: Tensor, size: int) -> Tensor:
    """Return the exact median of the cube of `size` voxels around each voxel of `volume` (*spatial)."""
    windows = volume
    for axis, length in enumerate(volume.shape):
        positions = torch.arange(-(size // 2), length + size - 1 - size // 2, device=volume.device)
        folded = positions.remainder(2 * length)
        windows = windows.index_select(axis, torch.minimum(folded, 2 * length - 1 - folded))
    # Slab by slab: the windows of a whole patch would fill a device's memory.
    slabs = [windows.narrow(0, first, size) for first in range(volume.shape[0])]
    rank = size**volume.ndim // 2 + 1
    filtered = []
    for slab in slabs:
        for axis in range(1, volume.ndim):
            slab = slab.unfold(axis, size, 1)  # noqa: PLW2901
        across = slab.movedim(0, -1).flatten(volume.ndim - 1)
        filtered.append(across.kthvalue(rank, dim=-1).values)
    return torch.stack(filtered)
