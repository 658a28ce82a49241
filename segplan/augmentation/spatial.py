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

LabelMaps = np.ndarray | tuple[np.ndarray, ...]
"""Integer labels of a case: (L, Z, Y, X), or L arrays (Z, Y, X), such as memory maps of files of their own."""

OUTSIDE_LABEL = -1
NO_LABEL = -(2**15)
"""Stands in for the ignore label where there is none."""
# Scores of labels that differ by less count as tied: nnU-Net 2.8.1 compares them in half precision.
TIE = 1.2e-4


@dataclass(frozen=True)
class SpatialParams:
    """One angle an axis (3D) or one in the plane (2D, dummy-2D), in radians, and the scale; > 1 shrinks objects.

    The scale is one number, or one for each axis that is scaled (2 in the plane).
    """

    angles: tuple[float, ...]
    scale: float | tuple[float, ...]

    def matrix(self) -> np.ndarray:
        """Return the 3×3 matrix from patch voxels to case voxels, axes (z, y, x): Rz·Ry·Rx·scale.

        Angle k turns about array axis k. A single angle turns and scales in the plane and leaves axis 0 alone.
        """
        if len(self.angles) == 1:
            scales = self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale)
            return _rotation(self.angles[0], 1, 2) @ np.diag((1.0, *scales))
        about_0, about_1, about_2 = self.angles
        # The signs follow nnU-Net 2.8.1, whose rotation about axis 1 maps axis 2 onto axis 0.
        turned: np.ndarray = _rotation(about_2, 0, 1) @ _rotation(-about_1, 0, 2) @ _rotation(about_0, 1, 2)
        scaled: np.ndarray = turned * np.array(self.scale)  # per axis: one factor a column
        return scaled


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
        axis_probability: share of the axes about which a rotated sample turns.
        scaling_probability: share of samples that are scaled.
        scale: range of the one factor for all axes (in dummy-2D those of the plane); 1.4 shrinks objects to 71 %.
        scale_per_axis: draw a factor for each axis instead, which also stretches and squeezes.
        unannotated: which voxels bear the ignore label after turning and scaling. "nearest": those whose nearest
            neighbour bears it; the others take the label with the most weight among annotated neighbours. "votes":
            those around which it has the most weight, as in nnU-Net 2.8.1; scattered annotations are lost, most of
            all at borders between labels.
    """

    rotation_probability: float = 0.2
    rotation_degrees: tuple[float, float] | Literal["auto"] = "auto"
    axis_probability: float = 1.0
    scaling_probability: float = 0.2
    scale: tuple[float, float] = (0.7, 1.4)
    scale_per_axis: bool = False
    unannotated: Literal["nearest", "votes"] = "nearest"

    def __post_init__(self) -> None:
        check_probability("spatial.rotation_probability", self.rotation_probability)
        check_probability("spatial.axis_probability", self.axis_probability)
        check_probability("spatial.scaling_probability", self.scaling_probability)
        check_range("spatial.scale", self.scale, minimum=1e-3)
        if self.unannotated not in ("nearest", "votes"):
            what = f"{self.unannotated!r} is no way to tell what is annotated"
            raise ConfigError(what, "augmentation: spatial.unannotated", "Use nearest or votes.")
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

    def without_vote(self, context: Context) -> int:
        """Return the label that shall not outvote others: the ignore label, or `NO_LABEL`."""
        return NO_LABEL if context.ignore_label is None or self.unannotated == "votes" else context.ignore_label

    def sample(self, rng: np.random.Generator, context: Context) -> SpatialParams | None:
        """Draw the parameters, or None where the sample is neither rotated nor scaled."""
        is_rotated = rng.random() < self.rotation_probability
        is_scaled = rng.random() < self.scaling_probability
        if not (is_rotated or is_scaled):
            return None
        degrees = self.rotation_range(context)
        count = 3 if len(context.patch_size) == 3 and not context.dummy_2d else 1
        angles = tuple(
            math.radians(uniform(rng, degrees)) if is_rotated and self._turns(rng) else 0.0 for _ in range(count)
        )
        if not (is_scaled and self.scale_per_axis):
            return SpatialParams(angles, uniform(rng, self.scale) if is_scaled else 1.0)
        return SpatialParams(angles, tuple(uniform(rng, self.scale) for _ in range(3 if count == 3 else 2)))

    def _turns(self, rng: np.random.Generator) -> bool:
        return self.axis_probability >= 1 or rng.random() < self.axis_probability


def cut_patch(
    image: np.ndarray,
    labels: LabelMaps,
    box: Box3,
    patch_size: tuple[int, int, int],
    params: SpatialParams | None,
    *,
    out: tuple[Tensor, Tensor] | None = None,
    ignored: int = NO_LABEL,
) -> tuple[Tensor, Tensor]:
    """Cut the network patch out of the middle of `box`, turned and scaled if there are `params`.

    nnU-Net 2.8.1 reads the box and treats all beyond it as empty; here a transform that reaches further finds the
    image there, and only beyond the image there is 0 and the label -1. Within the box both agree.

    Args:
        image: (C, Z, Y, X) float32, an array or a memory map.
        labels: see `LabelMaps`.
        box: where the patch was placed; it may reach beyond the image.
        patch_size: network patch (z, y, x), not larger than the box.
        params: what `Spatial.sample` drew.
        out: contiguous CPU tensors of the result's shapes to write into, such as places in a batch.
        ignored: see `Spatial.without_vote`.

    Returns:
        `out`, or new tensors: image (C, *patch_size) float32 and labels (L, *patch_size) int16.
    """
    patch, patch_labels = out or (
        torch.empty((image.shape[0], *patch_size)),
        torch.empty((len(labels), *patch_size), dtype=torch.int16),
    )
    if params is None:
        lower = middle_of(box, patch_size)
        crop(image, lower, patch.numpy(), 0)
        crop_labels(labels, lower, patch_labels.numpy())
        return patch, patch_labels
    from segplan.augmentation.warp import warp  # imports numba, which takes half a second

    way = (params.matrix(), warp_centre(box, patch_size, params))
    parts = _parts(labels, patch_labels.numpy())
    warp(image, parts[0][0], *way, (patch.numpy(), parts[0][1]), ignored=ignored)
    for own, target in parts[1:]:
        warp(image[:0], own, *way, (patch.numpy()[:0], target), ignored=ignored)
    return patch, patch_labels


def middle_of(box: Box3, patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the lower corner of the patch in the middle of a box."""
    z, y, x = (low + size // 2 - patch // 2 for low, size, patch in zip(box.lower, box.size, patch_size, strict=True))
    return z, y, x


def warp_centre(box: Box3, patch_size: tuple[int, int, int], params: SpatialParams) -> np.ndarray:
    """Return the case coordinates (z, y, x) of the middle of a turned patch; in the plane, slices stay slices."""
    centre: np.ndarray = np.array(box.lower) + (np.array(box.size) - 1) / 2
    if len(params.angles) == 1:
        centre[0] = middle_of(box, patch_size)[0] + (patch_size[0] - 1) / 2
    return centre


def crop_labels(labels: LabelMaps, lower: tuple[int, ...], out: np.ndarray) -> None:
    """Copy the box of `out`'s size at `lower` of label maps into `out` (L, Z, Y, X), with -1 beyond the case."""
    for own, target in _parts(labels, out):
        crop(own, lower, target, OUTSIDE_LABEL)


def _parts(labels: LabelMaps, out: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Label maps as arrays (L, Z, Y, X), each with its part of `out`."""
    if isinstance(labels, np.ndarray):
        return [(labels, out)]
    return [(own[None], out[number : number + 1]) for number, own in enumerate(labels)]


def crop(array: np.ndarray, lower: tuple[int, ...], out: np.ndarray, fill: int) -> None:
    """Copy the box of `out`'s size at `lower` of `array` (N, Z, Y, X), with `fill` where it lies beyond the array."""
    size = out.shape[1:]
    shape = array.shape[1:]
    source = tuple(
        slice(max(0, low), max(0, min(low + length, limit)))
        for low, length, limit in zip(lower, size, shape, strict=True)
    )
    inside = tuple(part.stop - part.start for part in source)
    if inside != size:
        out.fill(fill)
    if min(inside) > 0:
        target = tuple(slice(part.start - low, part.stop - low) for part, low in zip(source, lower, strict=True))
        out[:, *target] = array[:, *source]
