"""How far patches may be rotated, and the larger box that a rotated and scaled patch is thought to be cut from."""

import math
from dataclasses import dataclass

# The box is larger by this scaling factor whatever the range of scales (nnU-Net 2.8.1).
_SCALE_MARGIN = 0.85
_MAX_IN_PLANE_ASPECT = 1.5


@dataclass(frozen=True)
class Box3:
    """An axis-parallel box in a case, which may reach beyond the image: lower corner and size in voxels, (z, y, x)."""

    lower: tuple[int, int, int]
    size: tuple[int, int, int]


def automatic_rotation(patch_size: tuple[int, ...], dummy_2d: bool) -> tuple[float, float]:
    """Return the range of rotation angles in degrees for a patch (nnU-Net 2.8.1).

    3D patches turn by up to 30° about each axis; in the plane everything turns freely, except 2D patches more than
    1.5 times as long as wide (15°), which would lose their content.
    """
    if dummy_2d:
        return (-180.0, 180.0)
    if len(patch_size) == 3:
        return (-30.0, 30.0)
    return (-15.0, 15.0) if max(patch_size) / min(patch_size) > _MAX_IN_PLANE_ASPECT else (-180.0, 180.0)


def initial_patch_size(
    patch_size: tuple[int, ...], rotation_degrees: tuple[float, float], dummy_2d: bool
) -> tuple[int, ...]:
    """Return the size of the box around a patch that rotation and scaling draw from (nnU-Net 2.8.1).

    Its size decides where patches may lie: their centres may come as near to the border as half the difference
    of the two sizes would allow. segplan reads only what the drawn transform needs, which may reach beyond the box.

    Args:
        patch_size: network patch, 2 or 3 entries.
        rotation_degrees: range of each angle.
        dummy_2d: the patch turns within planes only, so axis 0 keeps its size.
    """
    angle = min(math.pi / 2, math.radians(max(abs(bound) for bound in rotation_degrees)))
    c, s = math.cos(angle), math.sin(angle)
    if len(patch_size) == 2:
        d0, d1 = patch_size
        reach = [max(d0, abs(d0 * c + d1 * s)), max(d1, abs(-d0 * s + d1 * c))]
    else:
        d0, d1, d2 = patch_size
        reach = [
            max(d0, abs(d0 * c - d2 * s), abs(d0 * c + d1 * s)),
            max(d1, abs(d1 * c + d2 * s), abs(-d0 * s + d1 * c)),
            max(d2, abs(-d1 * s + d2 * c), abs(d0 * s + d2 * c)),
        ]
    size = [int(extent / _SCALE_MARGIN) for extent in reach]
    if dummy_2d:
        size[0] = patch_size[0]
    return tuple(size)
