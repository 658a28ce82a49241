"""Turns a body into an image, as a scanner or a camera would: grid, pose, partial volume, intensities, bias, noise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segplan.dataset.phantom.anatomy import draw_anatomy
from segplan.dataset.phantom.paint import AIR, BONE, FAT, SOFT, Canvas, paint

Kind = Literal["ct", "mr", "rgb"]
KINDS: tuple[Kind, ...] = ("ct", "mr", "rgb")

THICK_SLICE_SHARE = 0.2
"""Share of the CT and MR cases that have sparse thick slices."""
SUB_SLICES = 3
"""Slices averaged into one thick slice."""


@dataclass(frozen=True)
class PhantomCase:
    """One case: image (C, Z, Y, X), label map (Z, Y, X) uint8, spacing in mm (z, y, x), origin in mm (x, y, z)."""

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]


@dataclass(frozen=True)
class _Grid:
    """A sampling grid: shape (Z, Y, X) before slices are averaged, spacing in mm, and slices to average."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    sub_slices: int


def draw_case(kind: Kind, seed: int, index: int) -> PhantomCase:
    """Make one case, a pure function of its arguments.

    Args:
        kind: modality.
        seed: of the dataset.
        index: of the case in the dataset.
    """
    rng = np.random.default_rng([seed, index, KINDS.index(kind)])
    flat = kind == "rgb"
    anatomy = draw_anatomy(rng, flat)
    grid = _draw_picture_grid(rng) if flat else _draw_volume_grid(rng)
    points = _draw_pose(rng, grid, flat)
    canvas = paint(anatomy, points, grid.shape, grid.spacing, rng)
    layers = _INTENSITIES[kind](canvas, rng).reshape(-1, *grid.shape)
    blur = [0.0, *(0.45 if extent > 1 else 0.0 for extent in grid.shape)]
    image = _average_slices(ndimage.gaussian_filter(layers, blur, mode="nearest"), grid.sub_slices)
    labels = canvas.label.reshape(grid.shape)[grid.sub_slices // 2 :: grid.sub_slices]
    spacing = (round(grid.spacing[0] * grid.sub_slices, 2), grid.spacing[1], grid.spacing[2])
    x, y, z = np.round(rng.uniform(-200, 200, 3), 1).tolist()
    return PhantomCase(_DEGRADE[kind](image, rng), np.ascontiguousarray(labels), spacing, (x, y, z))


def _draw_volume_grid(rng: np.random.Generator) -> _Grid:
    """A field of view about the body at 2.6 to 3.1 mm; thick slices are three times as thick as fine ones."""
    in_plane = round(float(rng.uniform(2.75, 3.0)), 2)
    thick = rng.random() < THICK_SLICE_SHARE
    z = round(float(rng.uniform(1.7, 2.1) if thick else rng.uniform(2.6, 3.1)), 2)
    height, depth, width = rng.uniform((102, 116, 152), (114, 126, 162))
    slices = int(height / z) // (SUB_SLICES if thick else 1) * (SUB_SLICES if thick else 1)
    return _Grid(
        (slices, int(depth / in_plane), int(width / in_plane)), (z, in_plane, in_plane), SUB_SLICES if thick else 1
    )


def _draw_picture_grid(rng: np.random.Generator) -> _Grid:
    """A picture of one plane, 128 to 192 pixels a side."""
    pixel = round(float(rng.uniform(0.9, 1.0)), 3)
    depth, width = rng.uniform((122, 160), (134, 174))
    return _Grid((1, max(128, int(depth / pixel)), min(192, int(width / pixel))), (pixel, pixel, pixel), 1)


def _draw_pose(rng: np.random.Generator, grid: _Grid, flat: bool) -> NDArray[np.float32]:
    """Points of the grid in the body's frame (N, 3): the body is shifted, turned in the plane and scaled."""
    turn, scale = rng.uniform(-0.2, 0.2), rng.uniform(0.92, 1.05)
    mirror = np.where(rng.random(3) < 0.5, -1.0, 1.0)
    mirror[1] = 1.0  # the spine stays behind
    shift = rng.uniform(-1, 1, 3) * (0.0 if flat else 3.0, 3.0, 5.0)
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(grid.shape, grid.spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) - shift
    cos, sin = np.cos(turn), np.sin(turn)
    turned = points @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return np.asarray(turned * mirror / scale, np.float32)


def _average_slices(image: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Mean of every `count` slices of (C, Z, Y, X): the partial volume of a thick slice."""
    C, Z, Y, X = image.shape
    return np.asarray(image.reshape(C, Z // count, count, Y, X).mean(axis=2), np.float32)


def _by_material(canvas: Canvas, values: dict[int, tuple[float, float]]) -> NDArray[np.float32]:
    """Intensity of each point: a material's (offset, slope) applied to the brightness."""
    offset, slope = np.array([values[material] for material in (AIR, FAT, SOFT, BONE)], np.float32).T
    return np.asarray(offset[canvas.material] + slope[canvas.material] * canvas.brightness, np.float32)


def _ct_intensities(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.float32]:
    """Hounsfield units after contrast medium: soft tissue between 0 and 200, bone above."""
    enhancement = float(rng.uniform(180, 220))
    return _by_material(canvas, {AIR: (-1000, 0), FAT: (-120, 40), SOFT: (0, enhancement), BONE: (120, 380)})


def _mr_intensities(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.float32]:
    """Relative signal: fat bright, cortical bone dark, soft tissue between."""
    gamma = float(rng.uniform(0.9, 1.15))
    canvas.brightness = np.asarray(np.maximum(canvas.brightness, 0) ** gamma, np.float32)
    return _by_material(canvas, {AIR: (0, 0), FAT: (0.85, 0.1), SOFT: (0.08, 0.85), BONE: (0.75, -0.65)})


_COLOURS = {
    AIR: ((58, 70, 84), (58, 70, 84)),
    FAT: ((226, 196, 128), (238, 214, 152)),
    SOFT: ((84, 26, 28), (236, 170, 140)),
    BONE: ((170, 110, 92), (240, 232, 214)),
}
"""Colours (R, G, B) of each material at brightness 0 and 1: a photograph of a cut through the body."""


def _rgb_intensities(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.float32]:
    """Colours, (3, N): a ramp for each material, tinted a little by the case's light."""
    tint = rng.uniform(0.92, 1.08, 3)
    channels = []
    for channel in range(3):
        ramps = {m: (float(low[channel]), float(high[channel] - low[channel])) for m, (low, high) in _COLOURS.items()}
        channels.append(_by_material(canvas, ramps) * np.float32(tint[channel]))
    return np.stack(channels)


def _bias_field(rng: np.random.Generator, shape: tuple[int, ...], strength: float) -> NDArray[np.float32]:
    """A smooth positive field (Z, Y, X) about 1: exp of a random quadratic."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    linear, square = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3)
    field = sum(a * axis + b * (axis**2 - 0.3) for a, b, axis in zip(linear, square, axes, strict=True))
    return np.exp(strength * np.asarray(field, np.float32) / 2)


def _degrade_ct(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Quantum noise, slightly correlated as after reconstruction; whole Hounsfield units."""
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), (0, 0, 0.5, 0.5))
    noisy = image + float(rng.uniform(8, 13)) * noise / noise.std()
    return np.asarray(np.clip(np.rint(noisy), -1024, 3071), np.float32)


def _degrade_mr(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Coil sensitivity, Rician noise and an arbitrary scale."""
    biased = image * _bias_field(rng, image.shape[1:], 0.35)
    sigma = float(rng.uniform(0.03, 0.05))
    real, imaginary = sigma * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.asarray(np.rint(np.hypot(biased + real, imaginary) * float(rng.uniform(300, 1500))), np.float32)


def _degrade_rgb(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Uneven light, sensor noise; 8 bits a channel."""
    lit = image * _bias_field(rng, image.shape[1:], 0.25)
    noisy = lit + float(rng.uniform(4, 8)) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), np.float32)


_INTENSITIES: dict[Kind, Callable[[Canvas, np.random.Generator], NDArray[np.float32]]] = {
    "ct": _ct_intensities,
    "mr": _mr_intensities,
    "rgb": _rgb_intensities,
}
_DEGRADE: dict[Kind, Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]] = {
    "ct": _degrade_ct,
    "mr": _degrade_mr,
    "rgb": _degrade_rgb,
}
