"""What an image is here: an array with channels first, its spacing, and where the file says that it sits."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

_FLAT_SPACING = 999.0  # nnU-Net 2.8.1: the slice distance of 2D data is 999 times the larger pixel size
_ORTHONORMAL = 1e-3  # headers round their cosines to 4 decimals or better; more is a shear

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
        header: the orientation fields of the file's header as "FORMAT:TEXT", from which the numbers above come. The
            module of that format writes them back as they were, because computing them anew would change the last
            bits; other modules ignore them. Not compared.
    """

    dimension: int
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    header: str | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The geometry as JSON values; floats survive the round trip through JSON bit by bit."""
        data: dict[str, Any] = {
            "dimension": self.dimension,
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
        }
        return data if self.header is None else {**data, "header": self.header}

    def header_of(self, format_name: str) -> str | None:
        """What stands in `header` after "FORMAT:", if it is of that format."""
        prefix = f"{format_name}:"
        return None if self.header is None or not self.header.startswith(prefix) else self.header[len(prefix) :]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Geometry":
        """The geometry that `to_json` wrote."""
        return cls(
            dimension=int(data["dimension"]),
            spacing=tuple(float(value) for value in data["spacing"]),
            origin=tuple(float(value) for value in data["origin"]),
            direction=tuple(float(value) for value in data["direction"]),
            header=data.get("header"),
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


def spacing_zyx(geometry: Geometry) -> tuple[float, float, float]:
    """The spacing of a medical file in mm along (z, y, x); a negative one loses its sign (nnU-Net 2.8.1)."""
    spacing = [abs(value) for value in reversed(geometry.spacing)]
    if geometry.dimension == 2:
        return (_FLAT_SPACING * max(spacing), spacing[0], spacing[1])
    return (spacing[0], spacing[1], spacing[2])


def direction_matrix(geometry: Geometry) -> np.ndarray:
    """The direction as (dimension, dimension) float64: column k is where axis k of (x, y[, z]) points."""
    return np.array(geometry.direction, dtype=float).reshape(geometry.dimension, geometry.dimension)


def with_positive_spacing(geometry: Geometry) -> Geometry:
    """The same grid in the same place: the sign of a negative spacing goes into the direction (ITK writes no other)."""
    if all(value > 0 for value in geometry.spacing):
        return geometry
    direction = direction_matrix(geometry) * np.sign(geometry.spacing)
    spacing = tuple(abs(value) for value in geometry.spacing)
    return replace(geometry, spacing=spacing, direction=tuple(direction.ravel().tolist()), header=None)


def is_orthonormal(geometry: Geometry) -> bool:
    """Whether the axes are unit vectors at right angles, up to the rounding of headers."""
    matrix = direction_matrix(geometry)
    return bool(np.abs(matrix.T @ matrix - np.eye(geometry.dimension)).max() < _ORTHONORMAL)


def axis_codes(geometry: Geometry) -> str:
    """Where each axis of (x, y[, z]) mostly points: letters of Left/Right, Posterior/Anterior, Superior/Inferior.

    ITK's identity direction is "LPS". A permuted and flipped grid has its letters permuted and flipped; an oblique one
    those of the nearest such grid.
    """
    matrix = direction_matrix(geometry).T.tolist()  # where each axis points
    nearest = max(
        itertools.permutations(range(geometry.dimension)),
        key=lambda worlds: sum(abs(axis[world]) for axis, world in zip(matrix, worlds, strict=True)),
    )
    return "".join(("LPS" if axis[world] > 0 else "RAI")[world] for axis, world in zip(matrix, nearest, strict=True))


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
    return float(np.linalg.norm(moved, axis=1).max() / min(map(abs, first.spacing)))


def _positions(geometry: Geometry, indices: np.ndarray) -> np.ndarray:
    """Physical positions (N, dimension) in mm of voxel indices (N, dimension), both in (x, y[, z]) order."""
    scaled = indices * np.asarray(geometry.spacing)
    positions: np.ndarray = np.asarray(geometry.origin) + scaled @ direction_matrix(geometry).T
    return positions
