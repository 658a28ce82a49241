"""Closed shapes of the phantom's anatomy: rotated ellipsoids, bent and rippled, measured in mm (z, y, x)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
"""Points in mm, (N, 3), axes (z, y, x)."""


@dataclass(frozen=True)
class Blob:
    """A rotated ellipsoid whose long axis may be bent and whose surface may be rippled.

    Args:
        centre: mm, (z, y, x).
        axes: semi-axes in mm, in the blob's own frame; the last is the long one.
        rotation: (3, 3), world to own frame.
        bend: how far the middle of the long axis is pushed along the second axis, as a share of that axis.
        ripple: amplitude of the surface's waves as a share of the radius.
        phase: phases of the waves, radians.
    """

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    rotation: NDArray[np.float32]
    bend: float = 0.0
    ripple: float = 0.0
    phase: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def reach(self) -> float:
        """Radius in mm of a ball about the centre that holds the whole blob."""
        return max(self.axes) * (1 + self.ripple) + abs(self.bend) * self.axes[1]

    @property
    def thickness(self) -> float:
        """Middle semi-axis in mm: turns the normalised radius into a depth."""
        return float(np.median(self.axes))

    @property
    def mean_radius(self) -> float:
        """Radius in mm of the ball of the same volume."""
        return float(np.cbrt(np.prod(self.axes)))

    def near(self, points: Points) -> NDArray[np.intp]:
        """Indices of the points (N, 3) inside the cube that holds the blob."""
        inside = np.abs(points[:, 0] - self.centre[0]) < self.reach
        for axis in (1, 2):
            inside &= np.abs(points[:, axis] - self.centre[axis]) < self.reach
        return np.flatnonzero(inside)

    def depth(self, points: Points) -> NDArray[np.float32]:
        """Depth below the surface in mm (approximate; negative outside) of points (N, 3), shape (N,)."""
        own = (points - np.asarray(self.centre, np.float32)) @ self.rotation.T / np.asarray(self.axes, np.float32)
        own[:, 1] += self.bend * (own[:, 2] ** 2 - 0.4)
        radius = np.sqrt((own**2).sum(axis=1))
        if self.ripple:
            waves = sum(np.sin(3.0 * own[:, axis] + self.phase[axis]) for axis in range(3))
            radius = radius * (1 + self.ripple / 3 * waves)
        return np.asarray((1 - radius) * self.thickness, np.float32)


def rotation_matrix(rng: np.random.Generator, flat: bool, spread: float = np.pi) -> NDArray[np.float32]:
    """A random rotation (3, 3): about axis z alone where `flat`, else with a tilt as well.

    Args:
        rng: source of the angles.
        flat: whether the picture is 2D, so that nothing may turn out of its plane.
        spread: angles are uniform in [-spread, spread].
    """
    turn, tilt, roll = rng.uniform(-spread, spread, 3)
    cos, sin = np.cos(turn), np.sin(turn)
    about_z = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    if flat:
        return about_z.astype(np.float32)
    cos, sin = np.cos(tilt), np.sin(tilt)
    about_y = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    cos, sin = np.cos(roll), np.sin(roll)
    about_x = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, np.float32)


def make_blob(
    rng: np.random.Generator,
    centre: tuple[float, float, float],
    axes: tuple[float, float, float],
    flat: bool,
    *,
    bend: float = 0.0,
    ripple: float = 0.0,
) -> Blob:
    """A blob at `centre` (mm) with a random rotation and random phases of its ripple."""
    first, second, third = rng.uniform(0, 2 * np.pi, 3).tolist()
    return Blob(centre, axes, rotation_matrix(rng, flat), bend, ripple, (first, second, third))
