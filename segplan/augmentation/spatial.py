"""Rotation and scaling, and the cut of the network patch out of a case.

The parameters are drawn before anything is read. Without rotation and scaling, which is most samples, the patch
itself is copied; otherwise the warp reads straight from the case what lies under the turned patch.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.patch_geometry import Box3, automatic_rotation
from segplan.augmentation.transform import Context, check_probability, check_range, uniform
from segplan.errors import ConfigError

OUTSIDE_LABEL = -1


@dataclass(frozen=True)
class SpatialParams:
    """One angle an axis (3D) or one in the plane (2D, dummy-2D), in radians, and one scale; > 1 shrinks objects."""

    angles: tuple[float, ...]
    scale: float

    def matrix(self) -> np.ndarray:
        """Return the 3×3 matrix from patch voxels to case voxels, axes (z, y, x): Rz·Ry·Rx·scale.

        Angle k turns about array axis k. A single angle turns and scales in the plane and leaves axis 0 alone.
        """
        if len(self.angles) == 1:
            return _rotation(self.angles[0], 1, 2) @ np.diag((1.0, self.scale, self.scale))
        about_0, about_1, about_2 = self.angles
        # The signs follow nnU-Net 2.8.1, whose rotation about axis 1 maps axis 2 onto axis 0.
        turned: np.ndarray = _rotation(about_2, 0, 1) @ _rotation(-about_1, 0, 2) @ _rotation(about_0, 1, 2)
        return turned * self.scale


def _rotation(angle: float, first: int, second: int) -> np.ndarray:
    """Rotation by `angle` in the plane of two axes."""
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[second, first] = math.sin(angle)
    matrix[first, second] = -math.sin(angle)
    return matrix


@dataclass(frozen=True)
class Spatial:
    """Rotate and scale, each with its own probability.

    Args:
        rotation_probability: share of samples that are rotated.
        rotation_degrees: range of the angles, one drawn per axis (in dummy-2D and 2D one in the plane); "auto" is
            ±30 in 3D, ±180 in 2D and dummy-2D, ±15 for 2D patches longer than 1.5 times their width.
        scaling_probability: share of samples that are scaled.
        scale: range of the one factor for all axes (in dummy-2D those of the plane); 1.4 shrinks objects to 71 %.
    """

    rotation_probability: float = 0.2
    rotation_degrees: tuple[float, float] | Literal["auto"] = "auto"
    scaling_probability: float = 0.2
    scale: tuple[float, float] = (0.7, 1.4)

    def __post_init__(self) -> None:
        check_probability("spatial.rotation_probability", self.rotation_probability)
        check_probability("spatial.scaling_probability", self.scaling_probability)
        check_range("spatial.scale", self.scale, minimum=1e-3)
        if self.rotation_degrees != "auto":
            if isinstance(self.rotation_degrees, str):
                raise ConfigError(
                    f"{self.rotation_degrees!r} is no range",
                    "augmentation: spatial.rotation_degrees",
                    "Use auto or [low, high].",
                )
            check_range("spatial.rotation_degrees", self.rotation_degrees)

    def rotation_range(self, context: Context) -> tuple[float, float]:
        """Return the range of angles in degrees for this patch."""
        if self.rotation_degrees == "auto":
            return automatic_rotation(context.patch_size, context.dummy_2d)
        return self.rotation_degrees

    def sample(self, rng: np.random.Generator, context: Context) -> SpatialParams | None:
        """Draw the parameters, or None where the sample is neither rotated nor scaled."""
        is_rotated = rng.random() < self.rotation_probability
        is_scaled = rng.random() < self.scaling_probability
        if not (is_rotated or is_scaled):
            return None
        degrees = self.rotation_range(context)
        count = 3 if len(context.patch_size) == 3 and not context.dummy_2d else 1
        angles = tuple(math.radians(uniform(rng, degrees)) if is_rotated else 0.0 for _ in range(count))
        return SpatialParams(angles, uniform(rng, self.scale) if is_scaled else 1.0)


def cut_patch(
    image: np.ndarray, labels: np.ndarray, box: Box3, patch_size: tuple[int, int, int], params: SpatialParams | None
) -> tuple[Tensor, Tensor]:
    """Cut the network patch out of the middle of `box`, turned and scaled if there are `params`.

    nnU-Net 2.8.1 reads the box and treats all beyond it as empty; here a transform that reaches further finds the
    image there, and only beyond the image there is 0 and the label -1. Within the box both agree.

    Args:
        image: (C, Z, Y, X) float32, an array or a memory map.
        labels: (L, Z, Y, X) integer.
        box: where the patch was placed; it may reach beyond the image.
        patch_size: network patch (z, y, x), not larger than the box.
        params: what `Spatial.sample` drew.

    Returns:
        New tensors: image (C, *patch_size) float32 and labels (L, *patch_size) int16.
    """
    if params is None:
        lower = tuple(
            low + size // 2 - patch // 2 for low, size, patch in zip(box.lower, box.size, patch_size, strict=True)
        )
        cropped = (
            _crop(image, lower, patch_size, 0, np.float32),
            _crop(labels, lower, patch_size, OUTSIDE_LABEL, np.int16),
        )
        return torch.from_numpy(cropped[0]), torch.from_numpy(cropped[1])
    from segplan.augmentation.warp import warp  # imports numba, which takes half a second

    centre = np.array(box.lower) + (np.array(box.size) - 1) / 2
    matrix = params.matrix()
    if len(params.angles) == 1:
        centre[0] = box.lower[0] + box.size[0] // 2 - patch_size[0] // 2 + (patch_size[0] - 1) / 2
    warped, voted = warp(image, labels, matrix, centre, patch_size)
    return torch.from_numpy(warped), torch.from_numpy(voted)


def _crop(
    array: np.ndarray, lower: tuple[int, ...], size: tuple[int, ...], fill: int, dtype: type[np.generic]
) -> np.ndarray:
    """Copy a box (*lower, *size) of `array` (N, Z, Y, X), with `fill` where it lies beyond the array."""
    shape = array.shape[1:]
    source = tuple(
        slice(max(0, low), max(0, min(low + length, limit)))
        for low, length, limit in zip(lower, size, shape, strict=True)
    )
    inside = tuple(part.stop - part.start for part in source)
    if inside == size:
        return np.array(array[:, *source], dtype=dtype, order="C")
    cropped = np.full((array.shape[0], *size), fill, dtype)
    if min(inside) > 0:
        target = tuple(slice(part.start - low, part.stop - low) for part, low in zip(source, lower, strict=True))
        cropped[:, *target] = array[:, *source]
    return cropped
