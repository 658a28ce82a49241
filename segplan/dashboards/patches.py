"""The same patch of a case, epoch after epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segplan.dataset import Labels
from segplan.preprocessing import PreprocessingPlan, StoredCase


@dataclass(frozen=True)
class FixedPatch:
    """A patch to be segmented and shown again and again.

    Args:
        case: the case's name.
        image: (C, Z, Y, X) float32; Z is 1 for a 2D network.
        labels: (Z, Y, X), label values of the files; background where the case has none.
        spacing: mm along (z, y, x).
        is_flat: whether the network is 2D.
    """

    case: str
    image: NDArray[np.float32]
    labels: NDArray[np.integer[Any]]
    spacing: tuple[float, float, float]
    is_flat: bool

    @property
    def batch(self) -> Tensor:
        """The network's input (1, C, *spatial)."""
        tensor = torch.from_numpy(self.image)[None]
        return tensor[:, :, 0] if self.is_flat else tensor


def fixed_patch(case: StoredCase, patch_size: Sequence[int], labels: Labels, plan: PreprocessingPlan) -> FixedPatch:
    """The patch about the middle voxel of the case's rarest class; of the image's centre if it has no foreground.

    Args:
        case: preprocessed.
        patch_size: voxels per network axis, (Z, Y, X) or (Y, X).
        labels: what the stored label indices stand for.
        plan: how the case was preprocessed.
    """
    size = [1, *patch_size][-3:] if len(patch_size) == 2 else list(patch_size)
    shape = case.image.shape[1:]
    present = [rows for rows in case.locations.values() if len(rows)]
    rarest = min(present, key=len, default=None)
    centre = [length // 2 for length in shape] if rarest is None else [int(at) for at in rarest[len(rarest) // 2]]
    starts = [
        max(0, min(middle - edge // 2, length - edge)) for middle, edge, length in zip(centre, size, shape, strict=True)
    ]
    box = tuple(slice(start, start + edge) for start, edge in zip(starts, size, strict=True))
    image = np.zeros((case.image.shape[0], *size), np.float32)
    cut = case.image[(slice(None), *box)]
    inside = tuple(slice(0, length) for length in cut.shape[1:])
    image[(slice(None), *inside)] = cut
    indices = np.zeros(size, np.int64)
    indices[inside] = np.maximum(case.labels[box], 0)  # -1: outside the nonzero region
    values = np.array([*labels.all_labels, *([] if labels.ignore is None else [labels.ignore])])
    spacing = plan.target_spacing(case.properties.spacing)
    return FixedPatch(case.identifier, image, values[indices], spacing, len(patch_size) == 2)


def predicted_labels(logits: Tensor, labels: Labels, *, is_flat: bool) -> NDArray[np.integer[Any]]:
    """Label values (Z, Y, X) of `logits` (1, K, *spatial) on the CPU."""
    channels = logits[0].float()
    if is_flat:
        channels = channels[:, None]
    if not labels.has_regions:
        values: NDArray[np.integer[Any]] = np.array(labels.all_labels)[channels.argmax(0).numpy()]
        return values
    painted = np.zeros(channels.shape[1:], np.int64)
    for value, channel in zip(labels.regions_class_order or (), channels > 0, strict=True):
        painted[channel.numpy()] = value
    return painted
