"""What tiles are cut from: an image, or an image with a label map that becomes channels tile by tile."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_SAMPLE_VOXELS = 1 << 18
_BODY_SHARE = 0.05
_BRIGHT_PERCENT = 99.5


@dataclass(frozen=True)
class LabelledImage:
    """An image whose further channels say where each label of an earlier stage is: made for a tile, never as a whole.

    Args:
        image: (C, Z, Y, X) in the network frame; may be memory-mapped.
        labels: (Z, Y, X), the labels 1 … `count`; what else there is belongs to no channel.
        count: channels that are added.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.integer]
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(C + count, Z, Y, X)."""
        return (len(self.image) + self.count, *self.image.shape[1:])

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.float32]:
        """All channels of a box: `index` is slice(None) and three slices."""
        part, labels = self.image[index], self.labels[index[1:]]
        result = np.empty((len(part) + self.count, *part.shape[1:]), dtype=np.float32)
        result[: len(part)] = part
        for label in range(1, self.count + 1):
            np.equal(labels, label, out=result[len(part) + label - 1], casting="unsafe")
        return result


TileSource = NDArray[Any] | Tensor | LabelledImage
"""(C, Z, Y, X) in the network frame; may be memory-mapped."""


def cut_tile(
    image: TileSource, start: Sequence[int], patch: Sequence[int], margins: Sequence[tuple[int, int]]
) -> Tensor:
    """The tile (C, *patch) at `start` of the image padded by `margins`; only the tile is ever padded or read."""
    lows = [first - low for first, (low, _) in zip(start, margins, strict=True)]
    spans = [
        (max(0, low), min(low + size, total)) for low, size, total in zip(lows, patch, image.shape[1:], strict=True)
    ]
    z, y, x = (slice(*span) for span in spans)
    part = image[(slice(None), z, y, x)]
    tile = part.float() if isinstance(part, Tensor) else torch.from_numpy(np.array(part, dtype=np.float32))
    lacking = [(a - low, low + size - b) for low, size, (a, b) in zip(lows, patch, spans, strict=True)]
    return F.pad(tile, [width for pair in reversed(lacking) for width in pair]) if np.any(lacking) else tile


@dataclass(frozen=True)
class Body:
    """Tells tiles that hold only air from others.

    A voxel belongs to the body if a channel of the image exceeds the channel's darkest value by a twentieth of the way
    to its bright ones (99.5th percentile), or if it carries a label of an earlier stage. Air is darker than that in CT,
    and in most MRI; where it is not, no tile is skipped.

    Args:
        thresholds: one a channel, (C, 1, 1, 1).
    """

    thresholds: Tensor

    @classmethod
    def of(cls, image: TileSource) -> "Body":
        """The thresholds of an image, from every n-th of its voxels."""
        source = image.image if isinstance(image, LabelledImage) else image
        step = max(1, round((np.prod(source.shape[1:]) / _SAMPLE_VOXELS) ** (1 / 3)))
        sample = np.array(source[:, ::step, ::step, ::step], dtype=np.float32).reshape(len(source), -1)
        dark, bright = sample.min(axis=1), np.percentile(sample, _BRIGHT_PERCENT, axis=1)
        thresholds = dark + _BODY_SHARE * (bright - dark)
        labels = np.zeros(image.shape[0] - len(source))
        return cls(torch.from_numpy(np.concatenate([thresholds, labels])).float()[:, None, None, None])

    def is_in(self, tile: Tensor) -> bool:
        """Whether a tile (C, *patch) holds a voxel of the body."""
        return bool((tile > self.thresholds).any())
