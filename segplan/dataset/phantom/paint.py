"""Paints an anatomy onto sample points: a material, a brightness and a label for each.

Every organ shares its range of brightness with background and with other organs, and has a level of its own in each
case. What tells the classes apart is how they are built:

- liver: a nodular grain under a dark capsule;
- spleen: dark, with stripes as in the arterial phase;
- kidney: bright cortex about a duller medulla;
- stomach: dark contents in a bright wall;
- lesion: a mass in liver or spleen, finely speckled over the whole range of brightness;
- bowel and vessels (background): smooth, dark or bright, without a wall.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segplan.dataset.phantom.anatomy import BODY_HALF_AXES, CAVITY, LABELS, Anatomy
from segplan.dataset.phantom.shapes import Blob, Points

AIR, FAT, SOFT, BONE = 0, 1, 2, 3


@dataclass
class Canvas:
    """What has been painted so far, a value for each of N points on a grid (Z, Y, X) flattened."""

    points: Points
    material: NDArray[np.uint8]
    brightness: NDArray[np.float32]
    label: NDArray[np.uint8]

    def fill(self, index: NDArray[np.intp], material: int, brightness: NDArray[np.float32] | float, label: int) -> None:
        """Paint over the points at `index`."""
        self.material[index] = material
        self.brightness[index] = brightness
        self.label[index] = label

    def inside(self, blob: Blob) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Indices of the points inside both the blob and the body, and their depths in mm."""
        near = blob.near(self.points)
        near = near[self.material[near] != AIR]
        depth = blob.depth(self.points[near])
        return near[depth > 0], depth[depth > 0]


def paint(
    anatomy: Anatomy, points: Points, shape: tuple[int, int, int], spacing: tuple[float, ...], rng: np.random.Generator
) -> Canvas:
    """Paint the anatomy.

    Args:
        anatomy: what to paint.
        points: mm in the body's frame, (N, 3), N = product of `shape`.
        shape: grid (Z, Y, X) of the points.
        spacing: mm between grid points, (z, y, x): texture has a size in mm.
        rng: the case's random stream.
    """
    count = len(points)
    canvas = Canvas(points, np.zeros(count, np.uint8), np.zeros(count, np.float32), np.zeros(count, np.uint8))
    _paint_body(canvas, anatomy, _grain(rng, shape, spacing, 18.0))
    for blob, level in anatomy.bowel:
        index, _ = canvas.inside(blob)
        canvas.fill(index, SOFT, level, 0)
    level = float(rng.uniform(0.75, 1.05))
    for blob in anatomy.vessels:
        canvas.fill(canvas.inside(blob)[0], SOFT, level, 0)
    for blob in anatomy.bones:
        index, depth = canvas.inside(blob)
        canvas.fill(index, BONE, np.where(depth < 3.0, 1.0, 0.2).astype(np.float32), 0)
    size = anatomy.organs["liver"].thickness
    _paint_organs(canvas, anatomy, _grain(rng, shape, spacing, 0.1 * size), rng)
    _paint_lesions(canvas, anatomy, _grain(rng, shape, spacing, 0.06 * size))
    return canvas


def _paint_body(canvas: Canvas, anatomy: Anatomy, variation: NDArray[np.float32]) -> None:
    """Skin and fat, the muscle wall, and the cavity's mesentery of slowly varying brightness."""
    y, x = canvas.points[:, 1] / BODY_HALF_AXES[0], canvas.points[:, 2] / BODY_HALF_AXES[1]
    angle = np.arctan2(y, x)
    waves = sum(np.cos((k + 2) * angle + phase) / (k + 2) for k, phase in enumerate(anatomy.outline))
    radius = (np.abs(y) ** 2.4 + np.abs(x) ** 2.4) ** (1 / 2.4) * (1 + 0.04 * waves)
    canvas.fill(np.flatnonzero(radius < 1), FAT, 0.5, 0)
    wall = np.flatnonzero(radius < 0.94)
    canvas.fill(wall, SOFT, 0.5 + 0.06 * variation[wall], 0)
    cavity = np.flatnonzero(radius < CAVITY)
    canvas.fill(cavity, SOFT, np.clip(0.48 + 0.05 * variation[cavity], 0, 1), 0)


def _paint_organs(canvas: Canvas, anatomy: Anatomy, grain: NDArray[np.float32], rng: np.random.Generator) -> None:
    """The organs, each with its own build about a level drawn for this case."""
    shift = {name: float(rng.uniform(-0.05, 0.05)) for name in anatomy.organs}
    direction = rng.normal(size=3) * (0.2, 1.0, 1.0)  # stripes stand upright, so that thick slices keep them
    for name, blob in anatomy.organs.items():
        index, depth = canvas.inside(blob)
        share = depth / blob.thickness
        if name == "liver":
            value = np.where(share < 0.1, 0.3, 0.6 + 0.18 * np.clip(1.4 * grain[index], -1, 1))
        elif name == "spleen":
            value = 0.28 + 0.2 * _stripes(canvas.points[index], direction, 0.55 * blob.thickness)
        elif name == "kidney":
            value = np.where(share < 0.3, 0.94, 0.7)
        else:
            value = np.where(share < 0.18, 0.6, 0.04)
        canvas.fill(index, SOFT, np.asarray(value + shift[name], np.float32), LABELS[name])


def _paint_lesions(canvas: Canvas, anatomy: Anatomy, speckle: NDArray[np.float32]) -> None:
    """The lesions, speckled over the whole range of brightness."""
    for blob in anatomy.lesions:
        index, _ = canvas.inside(blob)
        canvas.fill(index, SOFT, 0.5 + 0.5 * np.clip(2.0 * speckle[index], -1, 1), LABELS["lesion"])


def _stripes(points: Points, direction: NDArray[np.float64], period: float) -> NDArray[np.float32]:
    """Stripes in [-1, 1] across `direction`; `period` in mm."""
    along = points @ (direction / np.linalg.norm(direction)).astype(np.float32)
    return np.asarray(np.clip(1.6 * np.sin(2 * np.pi / period * along), -1, 1), np.float32)


def _grain(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, ...], size: float
) -> NDArray[np.float32]:
    """Smooth noise of zero mean and unit variance, flattened; `size` is the blur's standard deviation in mm."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    sigma = [size / step if extent > 1 else 0.0 for step, extent in zip(spacing, shape, strict=True)]
    smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    return np.asarray((smooth / smooth.std()).ravel(), np.float32)
