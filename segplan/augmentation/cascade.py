"""Damage to the previous stage's segmentation, so that the second stage of a cascade learns to mend, not to copy.

The transforms work on the label map (channel 1 of the labels, while there is one) rather than on one mask a label: the
masks of a label map exclude one another, so both say the same, and the map is cheaper whatever the number of labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability, check_range, seed_from, uniform

Operation = Literal["dilate", "erode", "close", "open"]
_OPERATIONS: tuple[Operation, ...] = ("dilate", "erode", "close", "open")
PREVIOUS = 1
"""Channel of the labels that holds the previous stage's segmentation."""


@dataclass(frozen=True)
class MorphologyParams:
    """In order, which label undergoes which operation with a ball of which radius (voxels)."""

    steps: tuple[tuple[int, Operation, float], ...]


@dataclass(frozen=True)
class CascadeMorphology:
    """Dilate, erode, close or open the previous segmentation of each chosen label, in random order.

    What a label gains it takes from the others; what it loses becomes background.

    Args:
        probability: share of samples.
        label_probability: share of the labels that then change.
        radius: range of the ball's radius in voxels.
    """

    probability: float = 0.4
    label_probability: float = 0.5
    radius: tuple[float, float] = (1.0, 8.0)

    def __post_init__(self) -> None:
        check_probability("cascade_morphology.probability", self.probability)
        check_probability("cascade_morphology.label_probability", self.label_probability)
        check_range("cascade_morphology.radius", self.radius, minimum=0)

    def sample(self, rng: np.random.Generator, context: Context) -> MorphologyParams | None:
        """Draw the parameters, or None where the sample stays as it is or there is no previous stage."""
        if not context.previous_labels or rng.random() >= self.probability:
            return None
        steps = [
            (label, _OPERATIONS[rng.integers(len(_OPERATIONS))], uniform(rng, self.radius))
            for label in _in_random_order(rng, context)
            if rng.random() < self.label_probability
        ]
        return MorphologyParams(tuple(steps)) if steps else None

    def apply(self, image: Tensor, labels: Tensor, params: MorphologyParams) -> tuple[Tensor, Tensor]:
        """Return `image` as it is and `labels` (L, *spatial) with the previous segmentation changed."""
        previous = labels[PREVIOUS]
        for label, operation, radius in params.steps:
            before = previous == label
            after = morphology(before, operation, radius)
            previous.masked_fill_(before & ~after, 0).masked_fill_(after, label)
        return image, labels


@dataclass(frozen=True)
class ComponentParams:
    """In order, whose components are looked at, and the seed that picks one."""

    labels: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class CascadeRemoveComponent:
    """Remove one small connected component of each chosen label from the previous segmentation.

    Args:
        probability: share of samples.
        label_probability: share of the labels that then lose a component.
        largest: components with at least this share of the patch's voxels stay.
    """

    probability: float = 0.2
    label_probability: float = 0.5
    largest: float = 0.15

    def __post_init__(self) -> None:
        check_probability("cascade_remove_component.probability", self.probability)
        check_probability("cascade_remove_component.label_probability", self.label_probability)
        check_probability("cascade_remove_component.largest", self.largest)

    def sample(self, rng: np.random.Generator, context: Context) -> ComponentParams | None:
        """Draw the parameters, or None where the sample stays as it is or there is no previous stage."""
        if not context.previous_labels or rng.random() >= self.probability:
            return None
        chosen = [label for label in _in_random_order(rng, context) if rng.random() < self.label_probability]
        return ComponentParams(tuple(chosen), seed_from(rng)) if chosen else None

    def apply(self, image: Tensor, labels: Tensor, params: ComponentParams) -> tuple[Tensor, Tensor]:
        """Return `image` as it is and `labels` (L, *spatial) with components removed from the previous segmentation."""
        from scipy import ndimage

        rng = np.random.default_rng(params.seed)
        previous = labels[PREVIOUS].cpu().numpy()
        limit = self.largest * previous.size
        for label in params.labels:
            structure = np.ones((3,) * previous.ndim)
            components, _ = ndimage.label(previous == label, structure)
            sizes = np.bincount(components.reshape(-1))
            small = [number for number in range(1, len(sizes)) if sizes[number] < limit]
            if small:
                previous[components == small[rng.integers(len(small))]] = 0
        labels[PREVIOUS].copy_(torch.from_numpy(previous))
        return image, labels


def previous_as_masks(labels: Tensor, previous_labels: Sequence[int], out: Tensor) -> None:
    """Write the previous segmentation as one mask a label: what the second stage's network sees beside the image.

    Args:
        labels: (L, *spatial); channel `PREVIOUS` is the previous segmentation.
        previous_labels: its foreground labels, in order.
        out: (len(previous_labels), *spatial), filled with 0 and 1.
    """
    for mask, label in zip(out, previous_labels, strict=True):
        mask.copy_(labels[PREVIOUS] == label)


def with_previous_masks(images: Tensor, labels: Tensor, previous_labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Turn images (N, C, *spatial) and labels (N, 2, *spatial) into the second stage's input and its target.

    Returns:
        images with the masks of `previous_as_masks` as further channels, and the labels (N, 1, *spatial).
    """
    masks = images.new_empty((len(images), len(previous_labels), *images.shape[2:]))
    for own_labels, own_masks in zip(labels, masks, strict=True):
        previous_as_masks(own_labels, previous_labels, own_masks)
    return torch.cat([images, masks], dim=1), labels[:, :PREVIOUS]


def _in_random_order(rng: np.random.Generator, context: Context) -> list[int]:
    return [int(label) for label in rng.permutation(context.previous_labels)]


def morphology(mask: Tensor, operation: Operation, radius: float) -> Tensor:
    """Return `mask` (*spatial) dilated, eroded, closed or opened with the ball of voxels no further than `radius`.

    Erosion takes the outside for foreground. The ball is centred on its voxel; nnU-Net 2.8.1 shifts balls of an even
    number of voxels by half a voxel.
    """
    if operation == "dilate":
        return _dilate(mask, radius)
    if operation == "erode":
        return ~_dilate(~mask, radius)
    if operation == "close":
        return ~_dilate(~_dilate(mask, radius), radius)
    return _dilate(~_dilate(~mask, radius), radius)


def _dilate(mask: Tensor, radius: float) -> Tensor:
    """Voxels with a voxel of `mask` within `radius`: squared distances are minimised axis by axis."""
    far = 1 << 14
    reach = math.floor(radius)
    distances = torch.where(mask, 0, far).to(torch.int16)
    for axis, size in enumerate(mask.shape):
        nearest = distances.clone()
        for step in range(1, min(reach, size - 1) + 1):
            here, there = (0, size - step), (step, size - step)
            for target, source in ((here, there), (there, here)):
                part = nearest.narrow(axis, *target)
                torch.minimum(part, distances.narrow(axis, *source) + step**2, out=part)
        distances = nearest
    return distances <= radius**2
