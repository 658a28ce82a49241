"""What an image is here: an array with channels first, its spacing, and where the file says that it sits."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Half-open (low, high) voxel ranges along Z, Y, X."""


@dataclass(frozen=True)
class Geometry:
    """Where an array sits in space, in the file's axis order (x, y[, z]) and exactly as the file gives it.

    Attributes:
        dimension: 2 or 3, the dimension of the file.
        spacing: mm between voxels along x, y[, z].
        origin: mm, the physical position of the first voxel (LPS, as ITK has it).
        direction: row-major direction matrix, dimension**2 numbers.
        nifti: the orientation fields of a NIfTI header (hexadecimal), from which the numbers above were computed. They
            are written back as they were, because computing them anew would change the last bits. Not compared.
    """

    dimension: int
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    nifti: str | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The geometry as JSON values; floats survive the round trip through JSON bit by bit."""
        data: dict[str, Any] = {
            "dimension": self.dimension,
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
        }
        return data if self.nifti is None else {**data, "nifti": self.nifti}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Geometry":
        """The geometry that `to_json` wrote."""
        return cls(
            dimension=int(data["dimension"]),
            spacing=tuple(float(value) for value in data["spacing"]),
            origin=tuple(float(value) for value in data["origin"]),
            direction=tuple(float(value) for value in data["direction"]),
            nifti=data.get("nifti"),
        )


@dataclass(frozen=True)
class Image:
    """An image or label map as read.

    Attributes:
        array: (C, Z, Y, X); a 2D picture has Z = 1.
        spacing: mm along (z, y, x). The first entry of 2D data is a placeholder larger than any real slice distance,
            so that planning takes that axis for the coarsest: 999 for pictures, 999 × max(sy, sx) for medical 2D files.
        geometry: where it sits, for writing results back.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    geometry: Geometry


def corner_shift(first: Geometry, second: Geometry, size: tuple[int, ...]) -> float:
    """How far the corners of a grid of `size` (x, y[, z]) voxels lie apart under two geometries.

    Returns:
        The largest displacement over all corners, in voxels of the finest axis of `first`; infinite where one geometry
        is 2D and the other 3D.
    """
    if first == second:
        return 0.0
    if first.dimension != second.dimension:
        return math.inf
    corners = np.array(list(itertools.product(*((0, extent - 1) for extent in size[: first.dimension]))), dtype=float)
    moved = _positions(first, corners) - _positions(second, corners)
    return float(np.linalg.norm(moved, axis=1).max() / min(first.spacing))


def _positions(geometry: Geometry, indices: np.ndarray) -> np.ndarray:
    """Physical positions (N, dimension) in mm of voxel indices (N, dimension), both in (x, y[, z]) order."""
    direction = np.array(geometry.direction).reshape(geometry.dimension, geometry.dimension)
    positions: np.ndarray = np.asarray(geometry.origin) + (indices * np.asarray(geometry.spacing)) @ direction.T
    return positions
