"""Augmentation of a batch on another device: workers read and draw, the device warps and transforms.

The parameters are those that the worker drew, so that a sample is the same function of seed and number as on the CPU.
All here is written in torch operations for tensors of any device. It has not run on a GPU yet; on CPU tensors it is
tested against the compiled path.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.patch_geometry import Box3
from segplan.augmentation.spatial import (
    NO_LABEL,
    OUTSIDE_LABEL,
    TIE,
    LabelMaps,
    crop,
    crop_labels,
    cut_patch,
    middle_of,
    warp_centre,
)
from segplan.augmentation.transform import BatchTransform, Transform

Size = tuple[int, int, int]
_CORNERS = [(k >> 2, (k >> 1) & 1, k & 1) for k in range(8)]


class Source:
    """What shall happen to the voxels that were read for one sample; travels beside them.

    No dataclass and no collection, which Lightning would take apart to look for tensors.

    Args:
        params: what `Pipeline.sample` drew.
        size: (z, y, x) of what was read: the patch or, where it will be warped, the box around the turned patch.
        warp: matrix and origin of the warp: patch voxel i comes from `origin + matrix · i` of the box; None for none.
    """

    def __init__(self, params: Mapping[str, Any], size: Size, warp: tuple[np.ndarray, np.ndarray] | None) -> None:
        self.params, self.size, self.warp = params, size, warp


def read_source(
    case: tuple[np.ndarray, LabelMaps],
    params: Mapping[str, Any],
    box: Box3,
    patch_size: Size,
    out: tuple[Tensor, Tensor],
    *,
    ignored: int = NO_LABEL,
) -> Source:
    """Copy from a case's image and labels (C or L, Z, Y, X) what the patch in the middle of `box` needs.

    Args:
        case: image and labels, arrays or memory maps.
        params: what `Pipeline.sample` drew.
        box: where the patch was placed.
        patch_size: (z, y, x).
        out: image (C, N) float32 and labels (L, N) int16, whose first voxels are filled. What does not fit is warped
            here, and is the patch then.
        ignored: see `Spatial.without_vote`.
    """
    spatial = params.get("spatial")
    lower, size = middle_of(box, patch_size), patch_size
    warp = None
    if spatial is not None:
        matrix = spatial.matrix()
        origin = warp_centre(box, patch_size, spatial) - matrix @ ((np.array(patch_size) - 1) / 2)
        lower, size = _reach(matrix, origin, patch_size, case[0].shape[1:])
        warp = matrix, origin - np.array(lower)
        if math.prod(size) > out[0].shape[1]:
            size, warp = patch_size, None
    image, labels = _shaped(out[0], size), _shaped(out[1], size)
    if spatial is None or warp is not None:
        crop(case[0], lower, image.numpy(), 0)
        crop_labels(case[1], lower, labels.numpy())
    else:
        made = cut_patch(*case, box, patch_size, spatial, ignored=ignored)
        image.copy_(made[0])
        labels.copy_(made[1])
    return Source(params, size, warp)


def resolve_sources(
    images: Tensor, labels: Tensor, sources: Sequence[Source], patch_size: Size, *, ignored: int = NO_LABEL
) -> tuple[Tensor, Tensor]:
    """Warp what must be warped of `images` (N, C, capacity) and `labels` (N, L, capacity).

    `ignored` is as in `read_source`.

    Returns:
        New tensors (N, C, *patch_size) and (N, L, *patch_size).
    """
    patches = images.new_empty((*images.shape[:2], *patch_size))
    patch_labels = labels.new_empty((*labels.shape[:2], *patch_size))
    for n, source in enumerate(sources):
        image, own_labels = _shaped(images[n], source.size), _shaped(labels[n], source.size)
        if source.warp is None:
            patches[n].copy_(image)
            patch_labels[n].copy_(own_labels)
        else:
            warp_tensors(image, own_labels, *source.warp, (patches[n], patch_labels[n]), ignored=ignored)
    return patches, patch_labels


def _shaped(flat: Tensor, size: Size) -> Tensor:
    """View the first voxels of `flat` (C, capacity) as (C, *size)."""
    return flat[:, : math.prod(size)].view(-1, *size)


def apply_to_batch(
    transforms: Sequence[tuple[str, Transform]], images: Tensor, labels: Tensor, params: Sequence[Mapping[str, Any]]
) -> tuple[Tensor, Tensor]:
    """Apply each transform to the samples on which it acts; all at once where it has a form for that."""
    for name, transform in transforms:
        acting = [n for n, drawn in enumerate(params) if name in drawn]
        if not acting:
            continue
        own = [params[n][name] for n in acting]
        if isinstance(transform, BatchTransform):
            all_act = len(acting) == len(params)
            part = (images, labels) if all_act else (images[acting], labels[acting])
            made = transform.apply_batch(*part, own)
            if not all_act:
                images[acting], labels[acting] = made
            else:
                images, labels = made
        else:
            for n, drawn in zip(acting, own, strict=True):
                image, own_labels = images[n], labels[n]
                new_image, new_labels = transform.apply(image, own_labels, drawn)
                _store(new_image, image)
                _store(new_labels, own_labels)
    return images, labels


def _store(made: Tensor, place: Tensor) -> None:
    if made.data_ptr() != place.data_ptr() or made.stride() != place.stride():
        place.copy_(made)


def _reach(
    matrix: np.ndarray, origin: np.ndarray, patch_size: tuple[int, int, int], shape: Sequence[int]
) -> tuple[Size, Size]:
    """Lower corner and size of what the warp reads, within the image; at least one voxel an axis."""
    ends = np.stack(np.meshgrid(*[(0, size - 1) for size in patch_size], indexing="ij"), -1).reshape(-1, 3)
    positions = ends @ matrix.T + origin
    limit = np.array(shape)
    low = np.clip(np.floor(positions.min(0)), 0, limit - 1).astype(int)
    high = np.clip(np.floor(positions.max(0)) + 2, low + 1, limit).astype(int)
    size = high - low
    return (int(low[0]), int(low[1]), int(low[2])), (int(size[0]), int(size[1]), int(size[2]))


def warp_tensors(
    image: Tensor,
    labels: Tensor,
    matrix: np.ndarray,
    origin: np.ndarray,
    out: tuple[Tensor, Tensor],
    *,
    ignored: int = NO_LABEL,
) -> None:
    """Fill `out` with `image` and `labels` sampled at `origin + matrix · voxel`, by the rules of `warp.warp`.

    Args:
        image: (C, Z, Y, X) float32.
        labels: (L, Z, Y, X) int16.
        matrix: 3×3.
        origin: where patch voxel (0, 0, 0) comes from.
        out: image (C, *patch) and labels (L, *patch).
        ignored: see `Spatial.without_vote`.
    """
    lower, fractions = _positions(matrix, origin, out[0].shape[1:], image.device)
    flat_image, flat_labels = image.flatten(1), labels.flatten(1)
    total = torch.zeros_like(out[0]).flatten(1)
    corners, weights = [], []
    for corner in _CORNERS:
        weight = torch.ones_like(fractions[0])
        index = torch.zeros_like(lower[0])
        inside = torch.ones_like(lower[0], dtype=torch.bool)
        for axis, bit in enumerate(corner):
            position, size = lower[axis] + bit, image.shape[axis + 1]
            inside &= (position >= 0) & (position < size)
            index = index * size + position.clamp(0, size - 1)
            weight = weight * (fractions[axis] if bit else 1 - fractions[axis])
        total += flat_image[:, index] * (weight * inside)
        corners.append(torch.where(inside, flat_labels[:, index], OUTSIDE_LABEL))
        weights.append(weight)
    out[0].copy_(total.view_as(out[0]))
    upper = [(f > 0.5) | ((f == 0.5) & (low % 2 == 1)) for low, f in zip(lower, fractions, strict=True)]
    nearest = 4 * upper[0].long() + 2 * upper[1].long() + upper[2].long()
    for channel in range(labels.shape[0]):
        voted = _vote(torch.stack([corner[channel] for corner in corners]), torch.stack(weights), nearest, ignored)
        out[1][channel].copy_(voted.view_as(out[1][channel]))


def _positions(
    matrix: np.ndarray, origin: np.ndarray, size: Sequence[int], device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Per axis, for each patch voxel (flattened) the lower neighbour and the fraction beyond it."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    steps = [torch.arange(length, device=device, dtype=dtype) for length in size]
    lower, fractions = [], []
    for axis in range(3):
        row = [float(value) for value in matrix[axis]]
        along = float(origin[axis]) + row[0] * steps[0][:, None, None] + row[1] * steps[1][:, None]
        position = (along + row[2] * steps[2]).flatten()
        floor = position.floor()
        lower.append(floor.long())
        fractions.append((position - floor).float())
    return lower, fractions


def _vote(corners: Tensor, weights: Tensor, nearest: Tensor, ignored: int) -> Tensor:
    """The label with the largest sum of weights; tied ones: the nearest neighbour's, else the smallest.

    Args:
        corners: (8, N) labels of the neighbours.
        weights: (8, N) their linear weights.
        nearest: (N) which of them is nearest.
        ignored: the label that wins where it is the nearest neighbour's, and only there.
    """
    winners = corners[0].clone()
    mixed = (corners != corners[0]).any(0).nonzero()[:, 0]  # few voxels lie between labels
    corners, weights = corners[:, mixed], weights[:, mixed]
    scores = torch.stack([(weights * (corners == label)).sum(0) for label in corners])
    scores.masked_fill_(corners == ignored, -1)
    best = scores.amax(0)
    chosen = nearest[None, mixed]
    favourite, favourite_score = corners.gather(0, chosen)[0], scores.gather(0, chosen)[0]
    favourite_score = torch.where(favourite == ignored, torch.inf, favourite_score)
    largest = torch.iinfo(corners.dtype).max
    smallest = torch.where(scores > best - TIE, corners, largest).amin(0)
    winners[mixed] = torch.where(favourite_score > best - TIE, favourite, smallest)
    return winners
