"""Blur and low resolution of one channel in compiled code, in place: the buffers are planes, which stay in the cache.

This module imports numba; import it where it is used.
"""

# ruff: noqa: PLR0917 (compiled functions take positional arguments)
import numba
import numpy as np

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@_jit  # type: ignore[untyped-decorator]
def blur_along(volume: np.ndarray, axis: int, weights: np.ndarray) -> None:
    """Convolve `volume` (Z, Y, X) along one axis with a symmetric kernel, in place; borders are reflected.

    Args:
        volume: contiguous float32.
        axis: 0, 1 or 2.
        weights: the kernel from its middle outwards, float32.
    """
    planes = volume.shape[1] if axis == 0 else volume.shape[0]
    for i in range(planes):
        plane = volume[:, i] if axis == 0 else volume[i]
        if axis == 2:
            _blur_columns(plane, weights)
        else:
            _blur_rows(plane, weights)


@_jit  # type: ignore[untyped-decorator]
def _blur_rows(plane: np.ndarray, weights: np.ndarray) -> None:
    """Convolve a plane (rows, X) across its rows, in place."""
    count, width = plane.shape
    radius = len(weights) - 1
    padded = np.empty((count + 2 * radius, width), np.float32)
    padded[radius : radius + count] = plane
    for offset in range(1, radius + 1):
        padded[radius - offset] = plane[_reflected(-offset, count)]
        padded[radius + count - 1 + offset] = plane[_reflected(count - 1 + offset, count)]
    mixed = np.empty((count, width), np.float32)
    _convolve(padded.reshape(-1), width, weights, mixed.reshape(-1))
    plane[:] = mixed


@_jit  # type: ignore[untyped-decorator]
def _blur_columns(plane: np.ndarray, weights: np.ndarray) -> None:
    """Convolve a plane (Y, columns) along its rows, in place; all rows as one, each with its reflected borders."""
    height, count = plane.shape
    radius = len(weights) - 1
    padded = np.empty((height + 1, count + 2 * radius), np.float32)  # the last row is only read past its end
    padded[height] = 0
    for y in range(height):
        row = plane[y]
        padded[y, radius : radius + count] = row
        for offset in range(1, radius + 1):
            padded[y, radius - offset] = row[_reflected(-offset, count)]
            padded[y, radius + count - 1 + offset] = row[_reflected(count - 1 + offset, count)]
    mixed = np.empty((height, count + 2 * radius), np.float32)
    _convolve(padded.reshape(-1), 1, weights, mixed.reshape(-1))
    plane[:] = mixed[:, :count]


@_jit  # type: ignore[untyped-decorator]
def _convolve(padded: np.ndarray, stride: int, weights: np.ndarray, mixed: np.ndarray) -> None:
    """Fill `mixed` with the weighted sums of `padded` at distances of multiples of `stride`, in long simple loops."""
    radius = len(weights) - 1
    middle = padded[radius * stride :]
    for i in range(len(mixed)):
        mixed[i] = weights[0] * middle[i]
    for offset in range(1, radius + 1):
        low, high, weight = padded[(radius - offset) * stride :], padded[(radius + offset) * stride :], weights[offset]
        for i in range(len(mixed)):
            mixed[i] += weight * (low[i] + high[i])


@_jit  # type: ignore[untyped-decorator]
def _reflected(position: int, size: int) -> int:
    """Fold a position beyond the border back, to and fro; the border voxel is not repeated."""
    if size == 1:
        return 0
    period = 2 * (size - 1)
    position %= period
    return min(position, period - position)


@_jit  # type: ignore[untyped-decorator]
def coarsen(
    volume: np.ndarray,
    nearest: tuple[np.ndarray, np.ndarray, np.ndarray],
    below: tuple[np.ndarray, np.ndarray, np.ndarray],
    fraction: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Sample `volume` (Z, Y, X) down by nearest neighbour and up again linearly, in place.

    Coarse slices are made as they are needed, always ahead of what has been overwritten.

    Args:
        volume: contiguous float32.
        nearest: per axis, for each coarse position the voxel that it takes.
        below: per axis, for each voxel its lower coarse neighbour.
        fraction: per axis, for each voxel the weight of its upper coarse neighbour, float32.
    """
    depth, height, width = volume.shape
    lower = np.empty((len(nearest[1]), width), np.float32)
    upper, mixed = np.empty_like(lower), np.empty_like(lower)
    _coarse_slice(volume[nearest[0][0]], nearest, below[2], fraction[2], lower)
    held, last = -1, len(nearest[0]) - 1
    for z in range(depth):
        while held < below[0][z]:
            held += 1
            if held > 0:
                lower, upper = upper, lower
            _coarse_slice(volume[nearest[0][min(held + 1, last)]], nearest, below[2], fraction[2], upper)
        for row in range(len(lower)):
            for x in range(width):
                mixed[row, x] = lower[row, x] + fraction[0][z] * (upper[row, x] - lower[row, x])
        for y in range(height):
            low, high = mixed[below[1][y]], mixed[min(below[1][y] + 1, len(mixed) - 1)]
            for x in range(width):
                volume[z, y, x] = low[x] + fraction[1][y] * (high[x] - low[x])


@_jit  # type: ignore[untyped-decorator]
def _coarse_slice(
    source: np.ndarray,
    nearest: tuple[np.ndarray, np.ndarray, np.ndarray],
    below: np.ndarray,
    fraction: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill the coarse rows of `out` (y, X) from a slice (Y, X), widened along X to full length."""
    last = len(nearest[2]) - 1
    coarse = np.empty(last + 1, np.float32)
    for row in range(len(nearest[1])):
        own = source[nearest[1][row]]
        for column in range(last + 1):
            coarse[column] = own[nearest[2][column]]
        for x in range(len(below)):
            low = coarse[below[x]]
            out[row, x] = low + fraction[x] * (coarse[min(below[x] + 1, last)] - low)


_COARSE, _FINE = 64, 64


@_jit  # type: ignore[untyped-decorator]
def median_filter(volume: np.ndarray, size_z: int, size: int) -> None:
    """Replace each voxel of `volume` (Z, Y, X) by the median of the box around it, in place.

    Intensities are counted in 4096 steps of the range, in a histogram that slides along the rows.

    Args:
        volume: contiguous float32.
        size_z: of the box along axis 0.
        size: of the box along the others.
    """
    depth, height, width = volume.shape
    low, high = volume.min(), volume.max()
    step = (high - low) / np.float32(_COARSE * _FINE - 1)
    if step <= 0:
        return
    levels = np.empty(volume.shape, np.uint16)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                levels[z, y, x] = np.uint16((volume[z, y, x] - low) / step + np.float32(0.5))
    rank = size_z * size * size // 2
    back = size // 2
    for z in range(depth):
        for y in range(height):
            coarse, fine = np.zeros(_COARSE, np.int32), np.zeros(_COARSE * _FINE, np.int32)
            for x in range(-size + 1, width):
                # The window's voxels x - back … x - back + size - 1: one column enters, one leaves.
                _count(levels, z - size_z // 2, size_z, y - back, size, x - back + size - 1, 1, coarse, fine)
                if x > 0:
                    _count(levels, z - size_z // 2, size_z, y - back, size, x - back - 1, -1, coarse, fine)
                if x >= 0:
                    volume[z, y, x] = low + step * np.float32(_level_of_rank(coarse, fine, rank))


@_jit  # type: ignore[untyped-decorator]
def _count(
    levels: np.ndarray,
    z: int,
    size_z: int,
    y: int,
    size: int,
    x: int,
    change: int,
    coarse: np.ndarray,
    fine: np.ndarray,
) -> None:
    """Add `change` for each voxel of a column (size_z, size) whose first is at (z, y, x)."""
    depth, height, width = levels.shape
    column = _mirrored(x, width)
    for dz in range(size_z):
        plane = levels[_mirrored(z + dz, depth)]
        for dy in range(size):
            level = plane[_mirrored(y + dy, height), column]
            coarse[level // _FINE] += change
            fine[level] += change


@_jit  # type: ignore[untyped-decorator]
def _level_of_rank(coarse: np.ndarray, fine: np.ndarray, rank: int) -> int:
    """The level of the value that has `rank` values before it."""
    seen, group = 0, 0
    while seen + coarse[group] <= rank:
        seen += coarse[group]
        group += 1
    level = group * _FINE
    while seen + fine[level] <= rank:
        seen += fine[level]
        level += 1
    return level


@_jit  # type: ignore[untyped-decorator]
def _mirrored(position: int, size: int) -> int:
    """Fold a position beyond the border back, to and fro; the border voxel is repeated."""
    position %= 2 * size
    return min(position, 2 * size - 1 - position)
