"""Distances between the surfaces of two masks: HD95, ASSD and the normalised surface Dice, in mm.

Nearest surface points are found by a k-d tree over surface points, in float64: memory and time grow with the surface,
not with the box around it as those of a distance transform do.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.int64]

# Area of the surface that passes a corner of the voxel grid, by which of its 8 voxels are inside (Nikolov et al.,
# 2018): the triangles of marching cubes for codes 0 to 127 (a code and its complement have the same surface), each a
# digit that names eighths of a voxel's (yx, zx, zy) faces. The same table as in DeepMind's surface-distance.
_TRIANGLES = ((0, 0, 4), (0, 2, 2), (0, 4, 0), (1, 1, 1), (2, 0, 2), (2, 2, 0), (2, 2, 2), (3, 3, 3), (4, 0, 0))
_CODES = (
    ".3.3.55.3.44.33.368.3.33.44.368.55.368.368.88.3.11.33.236.33.036.333.3366.33.113.344.1347.355.1357.3368.368.3.33."
    "11.236.33.344.113.1347.33.333.036.3366.355.3368.1357.368.55.236.236.22.355.3457.2336.236.355.2336.3457.236.5555."
    "355.355.55.3.33.33.355.11.036.113.1357.33.333.344.3368.236.3366.1347.368.44.036.344.3457.036.00.0336.036.344.0336."
    "4444.344.3457.036.344.44.33.333.113.2336.113.0336.1111.113.333.3333.0336.333.2336.333.113.33.368.3366.1347.236."
    "1357.036.113.11.3368.333.344.33.355.33.33.3"
)


def boundary_distances(
    prediction: Mask, reference: Mask, spacing: Sequence[float], *, flat: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each boundary voxel of one mask to the nearest of the other.

    A boundary voxel is in the mask and one of its 6 neighbours (4 in a single slice) is not; beyond the image nothing
    is in the mask. This is the surface of MONAI, MedPy and torchmetrics.

    Args:
        prediction: mask (Z, Y, X) with at least one voxel.
        reference: likewise, of the same shape.
        spacing: mm along (Z, Y, X).
        flat: whether the image has one slice; slices beyond the first are then no neighbours.

    Returns:
        From the prediction to the reference, and from the reference to the prediction; mm.
    """
    first, second = boundary(prediction, flat=flat), boundary(reference, flat=flat)
    return _distances(first, second, spacing), _distances(second, first, spacing)


def hd95(forth: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    """The 95th percentile of the distances of both directions together (MedPy, panoptica), mm."""
    return float(np.percentile(np.concatenate([forth, back]), 95))


def hd95_max(forth: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    """The larger of the 95th percentiles of each direction (MONAI, Metrics Reloaded), mm; never below `hd95`."""
    return float(max(np.percentile(forth, 95), np.percentile(back, 95)))


def assd(forth: NDArray[np.float64], back: NDArray[np.float64]) -> float:
    """Average symmetric surface distance: the mean over the distances of both directions, mm."""
    return float((forth.sum() + back.sum()) / (len(forth) + len(back)))


def surface_dice(
    prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float, *, flat: bool = False
) -> float:
    """Share of both surfaces' area that lies within the tolerance of the other (Nikolov et al., 2018).

    Args:
        prediction: mask (Z, Y, X) with at least one voxel.
        reference: likewise, of the same shape.
        spacing: mm along (Z, Y, X).
        tolerance: mm.
        flat: whether the image has one slice; its contours count then, in mm.
    """
    areas = _lengths(float(spacing[1]), float(spacing[2])) if flat else _areas(*(float(value) for value in spacing))
    first, second = _corner_codes(prediction, flat=flat), _corner_codes(reference, flat=flat)
    inside, total = 0.0, 0.0
    for one, other in ((first, second), (second, first)):
        is_surface, is_other = _is_surface(one, areas), _is_surface(other, areas)
        weights = areas[one[is_surface]]
        inside += float(weights[_distances(is_surface, is_other, spacing) <= tolerance].sum())
        total += float(weights.sum())
    return inside / total


def boundary(mask: Mask, *, flat: bool = False) -> Mask:
    """Voxels of the mask (Z, Y, X) with a neighbour by a face that is not in it; with `flat`, in their slice."""
    inside = mask.copy()
    for axis in range(1 if flat else 0, 3):
        along, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        kept[1:] &= along[:-1]
        kept[:-1] &= along[1:]
        kept[0] = kept[-1] = False
    return mask & ~inside


def _distances(first: Mask, second: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Distance of each point of the one to the nearest of the other, in the order of `first`'s voxels."""
    from scipy.spatial import cKDTree

    result = np.zeros(int(first.sum()))
    apart = ~second[first]
    if apart.any():
        scale = np.asarray(spacing, np.float64)
        start, target = np.argwhere(first)[apart], np.argwhere(second)
        _, nearest = cKDTree(target * scale, balanced_tree=False, compact_nodes=False).query(start * scale)
        # From whole numbers of voxels, so that equal distances are equal to the last bit.
        result[apart] = np.sqrt((((start - target[nearest]) * scale) ** 2).sum(axis=1))
    return result


def _corner_codes(mask: Mask, *, flat: bool) -> NDArray[np.uint8]:
    """Which of the 8 voxels (4 in a single slice) around each corner of the grid are in the mask: a bit each."""
    padded = np.pad(mask.view(np.uint8), [(0, 0) if flat else (1, 1), (1, 1), (1, 1)])
    codes = padded << 1 if flat else (padded[:-1] << 1) | padded[1:]
    width = 1 if flat else 2
    codes = codes >> 1 if flat else codes
    codes = (codes[:, :-1] << width) | codes[:, 1:]
    return np.asarray((codes[:, :, :-1] << (2 * width)) | codes[:, :, 1:])


def _is_surface(codes: NDArray[np.uint8], areas: NDArray[np.float64]) -> Mask:
    return np.asarray((codes != 0) & (codes != len(areas) - 1))


@lru_cache(maxsize=64)
def _areas(z: float, y: float, x: float) -> NDArray[np.float64]:
    """Area of the surface, mm², for each of the 256 codes of `_corner_codes`."""
    codes = _CODES.split(".")
    faces = np.array([y * x, z * x, z * y])  # perpendicular to z, y, x
    sizes = [float(np.linalg.norm(np.array(triangle) / 8 * faces)) for triangle in _TRIANGLES]
    by_standard = [sum(sizes[int(digit)] for digit in digits) for digits in (*codes, *reversed(codes))]
    return np.array([by_standard[_standard_code(code)] for code in range(256)])


def _standard_code(code: int) -> int:
    """The published table's code, whose bits run over x, then y, then z, for ours, whose run over z, then y, then x."""
    bits = [(code >> bit) & 1 for bit in range(8)]
    return sum(bits[z + 2 * y + 4 * x] << (x + 2 * y + 4 * z) for z in (0, 1) for y in (0, 1) for x in (0, 1))


@lru_cache(maxsize=64)
def _lengths(y: float, x: float) -> NDArray[np.float64]:
    """Length of the contour, mm, for each of the 16 codes of a single slice."""
    corner = float(np.hypot(y / 2, x / 2))
    lengths = np.full(16, corner)  # one voxel, or all but one
    lengths[[0, 15]] = 0
    lengths[[0b0101, 0b1010]] = x
    lengths[[0b0011, 0b1100]] = y
    lengths[[0b0110, 0b1001]] = 2 * corner
    return lengths
