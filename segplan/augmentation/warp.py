"""Fused affine warps in compiled code: one pass interpolates all channels and votes the label among the neighbours.

The cost hardly depends on the number of labels. The kernels read straight from the case's (memory-mapped) arrays,
so of a case only what lies under the patch is touched. This module imports numba; import it where it is used.
"""

# ruff: noqa: PLR0917 (compiled functions take positional arguments)
import math

import numba
import numpy as np

from segplan.augmentation.spatial import NO_LABEL, OUTSIDE_LABEL, TIE

Position = tuple[float, float, float]
Fractions = tuple[np.float32, np.float32, np.float32]

_TIE = np.float32(TIE)
_ONE = np.float32(1)
# Positions this near the border are left to the careful loop, so that rounding never leads beyond it.
_MARGIN = 1e-9
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


def warp(
    image: np.ndarray,
    labels: np.ndarray,
    matrix: np.ndarray,
    centre: np.ndarray,
    out: tuple[np.ndarray, np.ndarray],
    *,
    ignored: int = NO_LABEL,
) -> None:
    """Sample a patch at `centre + matrix · (voxel - middle of the patch)`.

    Intensities are interpolated linearly, with zeros outside the image. A voxel's label is the one with the largest
    sum of linear weights among its neighbours, those outside counting as -1; among tied labels the nearest
    neighbour's wins, else the smallest. The label `ignored` is given where it is the nearest neighbour's, and has no
    vote elsewhere.

    Args:
        image: (C, Z, Y, X) float32.
        labels: (L, Z, Y, X) int8 or int16.
        matrix: 3×3, from patch voxels to case voxels. If it leaves axis 0 alone (its first row and column are those
            of the identity), only the 4 neighbours in the plane take part.
        centre: the case coordinates (z, y, x) of the patch's middle; voxel centres have integer coordinates.
        out: filled with the image patch (C, *patch) float32 and the label patch (L, *patch) int16; contiguous.
        ignored: the label of voxels that are not annotated, if these shall not outvote those that are.
    """
    warped, voted = out
    matrix = np.ascontiguousarray(matrix, dtype=np.float64)
    origin = np.asarray(centre, dtype=np.float64) - matrix @ ((np.asarray(warped.shape[1:]) - 1) / 2)
    is_in_plane = (
        np.array_equal(matrix[0], (1, 0, 0)) and np.array_equal(matrix[:, 0], (1, 0, 0)) and origin[0].is_integer()
    )
    neighbours = 4 if is_in_plane else 8
    image = image.astype(np.float32, copy=False)
    labels = labels if labels.dtype in (np.int8, np.int16) else labels.astype(np.int16)
    _warp(_readable(image), _readable(labels), matrix, origin, neighbours, ignored, warped, voted)


def _readable(array: np.ndarray) -> np.ndarray:
    """One array type (contiguous, read-only) for memory maps and arrays alike, so that one kernel is compiled."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


@_jit  # type: ignore[untyped-decorator]
def _warp(
    image: np.ndarray,
    labels: np.ndarray,
    matrix: np.ndarray,
    origin: np.ndarray,
    neighbours: int,
    ignored: int,
    warped: np.ndarray,
    voted: np.ndarray,
) -> None:
    """Fill `warped` and `voted` row by row: a fast loop where all neighbours exist, a careful one beside it."""
    shape, length = image.shape[1:], warped.shape[3]
    lowest, fractions = np.empty(length, np.uint64), np.empty((3, length), np.float32)
    step_z, step_y, step_x = matrix[0, 2], matrix[1, 2], matrix[2, 2]
    for z in range(warped.shape[1]):
        for y in range(warped.shape[2]):
            row_z = origin[0] + matrix[0, 0] * z + matrix[0, 1] * y
            row_y = origin[1] + matrix[1, 0] * z + matrix[1, 1] * y
            row_x = origin[2] + matrix[2, 0] * z + matrix[2, 1] * y
            row = (row_z, row_y, row_x)
            step = (step_z, step_y, step_x)
            start, stop = _inner_range(row, step, shape, neighbours, length)
            places = warped[:, z, y], voted[:, z, y]
            if start > 0:
                _warp_border(image, labels, row, step, neighbours, ignored, places, 0, start)
            if stop < length:
                _warp_border(image, labels, row, step, neighbours, ignored, places, stop, length)
            if neighbours == 8:
                _locate(row, step, shape, lowest, fractions, start, stop)
                for c in range(image.shape[0]):
                    _interpolate_8(image[c], lowest, fractions, warped[c, z, y], start, stop)
                for c in range(labels.shape[0]):
                    _vote_8(labels[c], row, step, ignored, voted[c, z, y], start, stop)
            else:
                for c in range(image.shape[0]):
                    _interpolate_4(image[c, int(row_z)], row, step, warped[c, z, y], start, stop)
                for c in range(labels.shape[0]):
                    _vote_4(labels[c, int(row_z)], row, step, ignored, voted[c, z, y], start, stop)


@_jit  # type: ignore[untyped-decorator]
def _inner_range(
    row: Position,
    step: Position,
    shape: tuple[int, int, int],
    neighbours: int,
    length: int,
) -> tuple[int, int]:
    """Return the half-open range of voxels of a row whose neighbours all lie in the image."""
    start, stop = 0, length
    for axis in range(3):
        if axis == 0 and neighbours == 4:
            inside = 0 <= row[0] < shape[0]
            stop = stop if inside else start
            continue
        # 0 <= row + step·x < size - 1, solved roughly, then made exact.
        limit = shape[axis] - 1
        if abs(step[axis]) > 1e-12:
            first, last = -row[axis] / step[axis], (limit - row[axis]) / step[axis]
            start = max(start, min(length, math.floor(min(first, last)) - 1))
            stop = min(stop, max(0, math.ceil(max(first, last)) + 2))
        while start < stop and not _MARGIN <= row[axis] + step[axis] * start < limit - _MARGIN:
            start += 1
        while start < stop and not _MARGIN <= row[axis] + step[axis] * (stop - 1) < limit - _MARGIN:
            stop -= 1
    return (start, stop) if start < stop else (0, 0)


@_jit  # type: ignore[untyped-decorator]
def _locate(
    row: Position,
    step: Position,
    shape: tuple[int, int, int],
    lowest: np.ndarray,
    fractions: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Find, once for all channels, the flat index of each voxel's lowest neighbour and the fractions beyond it."""
    for x in range(start, stop):
        pz, py, px = row[0] + step[0] * x, row[1] + step[1] * x, row[2] + step[2] * x
        iz, iy, ix = int(pz), int(py), int(px)
        fractions[0, x], fractions[1, x], fractions[2, x] = pz - iz, py - iy, px - ix
        lowest[x] = np.uint64((iz * shape[1] + iy) * shape[2] + ix)


@_jit  # type: ignore[untyped-decorator]
def _interpolate_8(
    image: np.ndarray,
    lowest: np.ndarray,
    fractions: np.ndarray,
    warped: np.ndarray,
    start: int,
    stop: int,
) -> None:
    _, height, width = image.shape
    flat = image.reshape(-1)
    right, down = np.uint64(1), np.uint64(width)
    deep = np.uint64(height * width)
    for x in range(start, stop):
        fz, fy, fx = fractions[0, x], fractions[1, x], fractions[2, x]
        i = lowest[x]
        j = i + deep
        a = flat[i] + fx * (flat[i + right] - flat[i])
        b = flat[i + down] + fx * (flat[i + down + right] - flat[i + down])
        c = flat[j] + fx * (flat[j + right] - flat[j])
        d = flat[j + down] + fx * (flat[j + down + right] - flat[j + down])
        upper = a + fy * (b - a)
        lower = c + fy * (d - c)
        warped[x] = upper + fz * (lower - upper)


@_jit  # type: ignore[untyped-decorator]
def _vote_8(
    labels: np.ndarray,
    row: Position,
    step: Position,
    ignored: int,
    voted: np.ndarray,
    start: int,
    stop: int,
) -> None:
    _, height, width = labels.shape
    flat = labels.reshape(-1)
    right, down = np.uint64(1), np.uint64(width)
    deep = np.uint64(height * width)
    corners = np.empty(8, np.int16)
    for x in range(start, stop):
        pz, py, px = row[0] + step[0] * x, row[1] + step[1] * x, row[2] + step[2] * x
        iz, iy, ix = int(pz), int(py), int(px)
        i = np.uint64((iz * height + iy) * width + ix)
        j = i + deep
        first = flat[i]
        differs = (first ^ flat[i + right]) | (first ^ flat[i + down]) | (first ^ flat[i + down + right])
        differs |= (
            (first ^ flat[j]) | (first ^ flat[j + right]) | (first ^ flat[j + down]) | (first ^ flat[j + down + right])
        )
        if differs == 0:
            voted[x] = first
            continue
        corners[0], corners[1], corners[2], corners[3] = first, flat[i + right], flat[i + down], flat[i + down + right]
        corners[4], corners[5], corners[6], corners[7] = (
            flat[j],
            flat[j + right],
            flat[j + down],
            flat[j + down + right],
        )
        fractions = (np.float32(pz - iz), np.float32(py - iy), np.float32(px - ix))
        voted[x] = _winner(corners, (iz, iy, ix), fractions, ignored)


@_jit  # type: ignore[untyped-decorator]
def _interpolate_4(
    image: np.ndarray,
    row: Position,
    step: Position,
    warped: np.ndarray,
    start: int,
    stop: int,
) -> None:
    width = image.shape[1]
    flat = image.reshape(-1)
    right, down = np.uint64(1), np.uint64(width)
    for x in range(start, stop):
        py, px = row[1] + step[1] * x, row[2] + step[2] * x
        iy, ix = int(py), int(px)
        fy, fx = np.float32(py - iy), np.float32(px - ix)
        i = np.uint64(iy * width + ix)
        a = flat[i] + fx * (flat[i + right] - flat[i])
        b = flat[i + down] + fx * (flat[i + down + right] - flat[i + down])
        warped[x] = a + fy * (b - a)


@_jit  # type: ignore[untyped-decorator]
def _vote_4(
    labels: np.ndarray,
    row: Position,
    step: Position,
    ignored: int,
    voted: np.ndarray,
    start: int,
    stop: int,
) -> None:
    width = labels.shape[1]
    flat = labels.reshape(-1)
    right, down = np.uint64(1), np.uint64(width)
    corners = np.empty(4, np.int16)
    for x in range(start, stop):
        py, px = row[1] + step[1] * x, row[2] + step[2] * x
        iy, ix = int(py), int(px)
        i = np.uint64(iy * width + ix)
        first = flat[i]
        if (first ^ flat[i + right]) | (first ^ flat[i + down]) | (first ^ flat[i + down + right]) == 0:
            voted[x] = first
            continue
        corners[0], corners[1], corners[2], corners[3] = first, flat[i + right], flat[i + down], flat[i + down + right]
        fractions = (np.float32(0), np.float32(py - iy), np.float32(px - ix))
        voted[x] = _winner(corners, (0, iy, ix), fractions, ignored)


@_jit  # type: ignore[untyped-decorator]
def _warp_border(
    image: np.ndarray,
    labels: np.ndarray,
    row: Position,
    step: Position,
    neighbours: int,
    ignored: int,
    places: tuple[np.ndarray, np.ndarray],
    start: int,
    stop: int,
) -> None:
    """Do voxels `start` to `stop` of a row, of which some neighbours may lie outside the image."""
    warped, voted = places
    depth, height, width = image.shape[1:]
    corners = np.empty(neighbours, np.int16)
    for x in range(start, stop):
        pz, py, px = row[0] + step[0] * x, row[1] + step[1] * x, row[2] + step[2] * x
        iz, iy, ix = math.floor(pz), math.floor(py), math.floor(px)
        fractions = (np.float32(pz - iz), np.float32(py - iy), np.float32(px - ix))
        warped[:, x] = 0
        voted[:, x] = OUTSIDE_LABEL
        if iz < -1 or iy < -1 or ix < -1 or iz >= depth or iy >= height or ix >= width:
            continue
        for k in range(neighbours):
            jz, jy, jx = iz + (k >> 2), iy + ((k >> 1) & 1), ix + (k & 1)
            if 0 <= jz < depth and 0 <= jy < height and 0 <= jx < width:
                weight = _weight(k, fractions)
                for c in range(image.shape[0]):
                    warped[c, x] += weight * image[c, jz, jy, jx]
        for c in range(labels.shape[0]):
            for k in range(neighbours):
                jz, jy, jx = iz + (k >> 2), iy + ((k >> 1) & 1), ix + (k & 1)
                is_inside = 0 <= jz < depth and 0 <= jy < height and 0 <= jx < width
                corners[k] = labels[c, jz, jy, jx] if is_inside else OUTSIDE_LABEL
            voted[c, x] = _winner(corners, (iz, iy, ix), fractions, ignored)


@_jit  # type: ignore[untyped-decorator]
def _weight(corner: int, fractions: Fractions) -> np.float32:
    """Linear weight of a corner; the bits of its number say whether it is the upper neighbour along z, y and x."""
    along_z = fractions[0] if corner & 4 else _ONE - fractions[0]
    along_y = fractions[1] if corner & 2 else _ONE - fractions[1]
    along_x = fractions[2] if corner & 1 else _ONE - fractions[2]
    return along_z * along_y * along_x


@_jit  # type: ignore[untyped-decorator]
def _is_upper(lower: int, fraction: np.float32) -> bool:
    """Whether the upper of two neighbours is the nearest; halves go to the one with the even index."""
    return bool(fraction > 0.5 or (fraction == 0.5 and lower % 2 == 1))


@_jit  # type: ignore[untyped-decorator]
def _winner(corners: np.ndarray, lower: tuple[int, int, int], fractions: Fractions, ignored: int) -> int:
    """Return the label with the largest sum of weights among 4 or 8 `corners`; `ignored` if it is the nearest's."""
    upper_z, upper_y = _is_upper(lower[0], fractions[0]), _is_upper(lower[1], fractions[1])
    favourite = int(corners[4 * upper_z + 2 * upper_y + _is_upper(lower[2], fractions[2])])
    favourite_score = _score(favourite, corners, fractions)
    if favourite_score > 0.5 or favourite == ignored:
        return favourite
    best, winner = favourite_score, favourite
    for k in range(len(corners)):
        label = int(corners[k])
        if label == ignored:
            continue
        score = _score(label, corners, fractions)
        if score > best + _TIE or (score > best - _TIE and label < winner):
            best, winner = max(best, score), label
    return favourite if favourite_score > best - _TIE else winner


@_jit  # type: ignore[untyped-decorator]
def _score(label: int, corners: np.ndarray, fractions: Fractions) -> np.float32:
    score = np.float32(0)
    for k in range(len(corners)):
        if corners[k] == label:
            score += _weight(k, fractions)
    return score
