"""Whether a patch fits a network: each axis must be divisible by the product of its strides."""

import math
from collections.abc import Sequence

from segplan.errors import ConfigError


def check_patch(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> None:
    """Refuse a patch that the strides do not divide.

    Args:
        patch_size: voxels per axis, (y, x) or (z, y, x).
        strides: of each stage, per axis.

    Raises:
        ConfigError: names the axis and the nearest sizes that fit.
    """
    where = f"data.patch_size=[{','.join(str(size) for size in patch_size)}]"
    if len(patch_size) != len(strides[0]):
        raise ConfigError(
            f"has {len(patch_size)} axes, the network has {len(strides[0])}", where, "Give one size for each axis."
        )
    for axis, (name, size) in enumerate(zip("zyx"[-len(patch_size) :], patch_size, strict=True)):
        factors = [stride[axis] for stride in strides if stride[axis] > 1]
        multiple = math.prod(factors)
        if size > 0 and size % multiple == 0:
            continue
        lower, upper = size // multiple * multiple, (size // multiple + 1) * multiple
        nearest = f"{lower} or {upper}" if lower > 0 else f"{max(upper, multiple)}"
        times = f"is halved {len(factors)} times" if set(factors) == {2} else f"is divided by {multiple}"
        raise ConfigError(
            f"{where} does not fit the network: axis {name} {times}, so its size must be a multiple of {multiple}",
            remedy=f"Nearest: {nearest}.",
        )
    bottom = [size // math.prod(stride[axis] for stride in strides) for axis, size in enumerate(patch_size)]
    if math.prod(bottom) < 2:
        raise ConfigError(
            f"{where} leaves a single voxel at the network's lowest resolution, which cannot be normalised",
            remedy="Double the patch along one axis.",
        )
