"""What every transform is: parameters are sampled first, then applied, so that each sample can be replayed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from segplan.errors import ConfigError


@dataclass(frozen=True)
class Context:
    """What a transform knows of the patch when it samples its parameters.

    Args:
        channels: image channels.
        patch_size: network patch, voxels per spatial axis (2 or 3 entries).
        dummy_2d: the patch is so anisotropic that axis 0 is left alone by what resamples.
        previous_labels: foreground labels of the previous stage's segmentation, which is channel 1 of the labels then;
            empty outside cascades.
        ignore_label: the label of voxels that are not annotated; None where all are.
    """

    channels: int
    patch_size: tuple[int, ...]
    dummy_2d: bool = False
    previous_labels: tuple[int, ...] = ()
    ignore_label: int | None = None

    @property
    def resampled_axes(self) -> tuple[int, ...]:
        """Spatial axes on which transforms may resample or turn."""
        return tuple(range(int(self.dummy_2d), len(self.patch_size)))

    def is_square(self, axes: tuple[int, int]) -> bool:
        """Whether the patch is as long along the one axis as along the other."""
        return self.patch_size[axes[0]] == self.patch_size[axes[1]]


class Transform(Protocol):
    """One augmentation.

    `sample` decides whether and how strongly it acts; what `apply` returns is a pure function of its arguments. Random
    fields come from a seed among the parameters, so that the same parameters give the same result.
    """

    def sample(self, rng: np.random.Generator, context: Context) -> Any | None:
        """Draw the parameters, or None where the transform does not act on this sample."""

    def apply(self, image: Tensor, labels: Tensor, params: Any) -> tuple[Tensor, Tensor]:
        """Transform `image` (C, *spatial) float32 and `labels` (L, *spatial) int16, on whichever device they are.

        The arguments may be overwritten: the pipeline owns the patch, and a fresh 128³ patch a transform costs more
        than most transforms do. Whoever needs them afterwards passes clones.
        """


@runtime_checkable
class BatchTransform(Protocol):
    """A transform with a form for many patches at once, which pays off on accelerators."""

    def apply_batch(self, images: Tensor, labels: Tensor, params: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Do what `apply` does to each of `images` (N, C, *spatial) and `labels` (N, L, *spatial)."""


def uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw from U(low, high)."""
    low, high = bounds
    return low + (high - low) * rng.random()


def uniform_around_one(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw a factor that lies below 1 as often as above it, whatever the widths of the two sides.

    With probability 0.5 (and if low < 1) U(low, 1), otherwise U(max(low, 1), high): nnU-Net 2.8.1.
    """
    low, high = bounds
    if rng.random() < 0.5 and low < 1:
        return uniform(rng, (low, 1.0))
    return uniform(rng, (max(low, 1.0), high))


def chosen_channels(rng: np.random.Generator, probability: float, context: Context) -> list[bool]:
    """Draw which image channels a transform acts on; nothing is drawn where it is all of them."""
    return [probability >= 1 or rng.random() < probability for _ in range(context.channels)]


def seed_from(rng: np.random.Generator) -> int:
    """Draw a seed for a random field."""
    return int(rng.integers(2**63))


def check_probability(name: str, value: float) -> None:
    """Raise ConfigError unless `value` is a probability."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(
            f"{value!r} is no probability", where=f"augmentation: {name}", remedy="Use a number from 0 to 1."
        )


def check_range(name: str, bounds: tuple[float, float], minimum: float | None = None) -> None:
    """Raise ConfigError unless `bounds` are two ordered finite numbers, none below `minimum`."""
    is_pair = isinstance(bounds, tuple) and len(bounds) == 2
    is_pair = is_pair and all(isinstance(bound, int | float) and math.isfinite(bound) for bound in bounds)
    if not is_pair or bounds[0] > bounds[1] or (minimum is not None and bounds[0] < minimum):
        least = "" if minimum is None else f", not below {minimum}"
        raise ConfigError(
            f"{bounds!r} is no range", where=f"augmentation: {name}", remedy=f"Use [low, high] with low <= high{least}."
        )


def can_compile(volume: Tensor) -> bool:
    """Whether compiled code can work on a volume in place."""
    return volume.device.type == "cpu" and volume.dtype == torch.float32 and volume.is_contiguous()


def as_3d_array(volume: Tensor) -> np.ndarray:
    """View a contiguous CPU `volume`, (Z, Y, X) or (Y, X), as an array (Z, Y, X)."""
    array: np.ndarray = volume.reshape((1,) * (3 - volume.ndim) + volume.shape).numpy()
    return array


def per_channel(values: tuple[float, ...], image: Tensor) -> Tensor:
    """Return `values`, one a channel, as a tensor that broadcasts against `image` (C, *spatial)."""
    return image.new_tensor(values).view(-1, *(1,) * (image.ndim - 1))
