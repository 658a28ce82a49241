"""Boxes in which nothing is to be seen."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability, check_range, chosen_channels
from segplan.errors import ConfigError


@dataclass(frozen=True)
class BlankParams:
    """Per channel its boxes: lower corner and size in voxels."""

    boxes: tuple[tuple[tuple[tuple[int, ...], tuple[int, ...]], ...], ...]


@dataclass(frozen=True)
class BlankRectangles:
    """Replace some boxes of each chosen channel by the box's own mean; the labels stay.

    Args:
        probability: share of samples in which channels may get boxes.
        channel_probability: share of channels that then do.
        count: range of the number of boxes in a channel.
        size: range of a box's size along each axis, as a share of the patch.
    """

    probability: float = 0.4
    channel_probability: float = 0.5
    count: tuple[int, int] = (1, 4)
    size: tuple[float, float] = (0.1, 1 / 3)

    def __post_init__(self) -> None:
        check_probability("blank_rectangles.probability", self.probability)
        check_probability("blank_rectangles.channel_probability", self.channel_probability)
        check_range("blank_rectangles.count", self.count, minimum=0)
        check_range("blank_rectangles.size", self.size, minimum=0)
        if self.size[1] > 1:
            raise ConfigError(
                f"{self.size[1]} of the patch is too large", "augmentation: blank_rectangles.size", "Use up to 1."
            )

    def sample(self, rng: np.random.Generator, context: Context) -> BlankParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        chosen = chosen_channels(rng, self.channel_probability, context)
        boxes = tuple(self._draw(rng, context.patch_size) if acts else () for acts in chosen)
        return BlankParams(boxes) if any(boxes) else None

    def apply(self, image: Tensor, labels: Tensor, params: BlankParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) with the boxes blanked, and `labels` as they are."""
        for channel, boxes in zip(image, params.boxes, strict=True):
            for lower, size in boxes:
                part = channel[tuple(slice(low, low + length) for low, length in zip(lower, size, strict=True))]
                part.copy_(part.mean().expand_as(part))
        return image, labels

    def _draw(
        self, rng: np.random.Generator, patch_size: tuple[int, ...]
    ) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        boxes = []
        for _ in range(int(rng.integers(*self.count, endpoint=True))):
            low, high = ([max(1, int(share * axis)) for axis in patch_size] for share in self.size)
            size = rng.integers(low, high, endpoint=True)
            corner = rng.integers(0, np.array(patch_size) - size, endpoint=True)
            boxes.append((tuple(int(value) for value in corner), tuple(int(value) for value in size)))
        return tuple(boxes)
