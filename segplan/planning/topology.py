"""Which axes a U-Net halves at each stage, how wide its kernels are, and what that asks of the patch.

nnU-Net 2.8.1's rule: an axis is halved while it is long enough and while its spacing is not much coarser than the
finest axis that is still long enough; its kernels become 3 wide as soon as its spacing comes close to the finest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segplan.planning.settings import PlannerSettings


@dataclass(frozen=True)
class Topology:
    """The shape of a U-Net, and the patch it was made for; all tuples are in the patch's axis order."""

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    divisor: tuple[int, ...]

    @property
    def bottom(self) -> tuple[int, ...]:
        """Size of the patch at the lowest resolution."""
        return tuple(size // step for size, step in zip(self.patch_size, self.divisor, strict=True))

    @property
    def stages(self) -> int:
        """Number of resolutions, the full one included."""
        return len(self.strides)


def derive_topology(spacing: Sequence[float], size: Sequence[float], settings: PlannerSettings) -> Topology:
    """Strides and kernels for a patch of about `size`, which is rounded up to what the strides divide.

    Args:
        spacing: mm per axis.
        size: voxels per axis; may be fractional.
        settings: the planner's constants.
    """
    spacing, size = list(spacing), list(size)
    requested = tuple(size)
    axes = range(len(size))
    kernel = [1] * len(size)
    strides = [tuple(kernel)]
    kernels = []
    while True:
        done = [sum(stride[i] > 1 for stride in strides) for i in axes]
        pooled = _axes_to_pool(spacing, size, done, settings)
        if not pooled:
            break
        finest = min(spacing)
        kernel = [3 if kernel[i] == 3 or spacing[i] / finest < settings.pooling_spacing_ratio else 1 for i in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if i in pooled else 1 for i in axes))
        for i in pooled:
            spacing[i] *= 2
            size[i] = math.ceil(size[i] / 2)
    kernels.append((3,) * len(size))  # the bottleneck sees all axes
    return fitted(requested, strides, kernels)


def fitted(size: Sequence[float], strides: Sequence[Sequence[int]], kernel_sizes: Sequence[Sequence[int]]) -> Topology:
    """The topology of these strides, with the smallest patch that they divide and that holds `size`."""
    divisor = tuple(math.prod(stride[axis] for stride in strides) for axis in range(len(size)))
    patch = tuple(math.ceil(edge / step) * step for edge, step in zip(size, divisor, strict=True))
    return Topology(patch, tuple(map(tuple, strides)), tuple(map(tuple, kernel_sizes)), divisor)


def _axes_to_pool(
    spacing: Sequence[float], size: Sequence[float], done: Sequence[int], settings: PlannerSettings
) -> list[int]:
    long_enough = [i for i in range(len(size)) if size[i] >= 2 * settings.min_bottleneck_edge]
    if not long_enough:
        return []
    finest = min(spacing[i] for i in long_enough)
    pooled = [i for i in long_enough if spacing[i] / finest < settings.pooling_spacing_ratio]
    pooled = [i for i in pooled if done[i] < settings.max_poolings(len(size))]
    # A single axis is halved only if more than the minimum is left.
    if len(pooled) == 1 and size[pooled[0]] < 3 * settings.min_bottleneck_edge:
        return []
    return pooled
