"""Where the tiles of a volume lie, how each voxel of a tile counts, and which mirror images are averaged."""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from segplan.errors import ConfigError

_SIGMA_OF_PATCH = 1 / 8
_PEAK = 10.0


def tile_starts(size: int, patch: int, step_size: float = 0.5) -> list[int]:
    """First voxel of each tile along one axis: the fewest tiles whose distance is at most the wanted one.

    The rule is nnU-Net 2.8.1's.

    Args:
        size: voxels of the image along the axis; at least `patch` (pad first).
        patch: voxels of the tile.
        step_size: largest distance between two tiles, as a fraction of the patch.

    Raises:
        ConfigError: `step_size` is not in (0, 1].
    """
    if not 0 < step_size <= 1:
        raise ConfigError(
            "must be above 0 and at most 1", f"inference.step_size={step_size}", "Use 0.5; larger is faster."
        )
    last = size - patch
    if last <= 0:
        return [0]
    count = math.ceil(last / (patch * step_size)) + 1
    return [round(last / (count - 1) * index) for index in range(count)]


def padding(shape: Sequence[int], patch_size: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros to add (before, after) on each axis so that `shape` holds a tile; the odd one goes behind."""
    missing = [max(0, patch - size) for size, patch in zip(shape, patch_size, strict=True)]
    return [(lack // 2, lack - lack // 2) for lack in missing]


def mirror_combinations(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every subset of `axes`, the empty one first: the flips whose predictions are averaged."""
    ordered = sorted(set(axes))
    return [subset for length in range(len(ordered) + 1) for subset in itertools.combinations(ordered, length)]


@functools.lru_cache(maxsize=4)
def gaussian_weights(patch_size: tuple[int, ...]) -> np.ndarray:
    """Weight of each voxel of a tile, float32, read-only: a Gaussian of sigma patch / 8 with maximum 10.

    nnU-Net 2.8.1 stores it in float16 and replaces what rounds to zero by the smallest value left. The values
    are the same here; only the arithmetic with them is float32.
    """
    from scipy.ndimage import gaussian_filter1d

    weights = np.ones(())
    for size in patch_size:
        impulse = np.zeros(size)
        impulse[size // 2] = 1
        profile = gaussian_filter1d(impulse, size * _SIGMA_OF_PATCH, mode="constant")
        weights = np.multiply.outer(weights, profile)
    rounded = (weights / (weights.max() / _PEAK)).astype(np.float16)
    rounded[rounded == 0] = rounded[rounded > 0].min()
    result: np.ndarray = rounded.astype(np.float32)
    result.setflags(write=False)
    return result
