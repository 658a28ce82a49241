"""Exchange of axes that are equally long."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability


@dataclass(frozen=True)
class TransposeParams:
    """Which old axis stands in each new axis' place."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Transpose:
    """Permute the axes that have the same number of voxels as another one; every permutation is as likely.

    In dummy-2D, axis 0 takes no part.

    Args:
        probability: share of samples.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability("transpose.probability", self.probability)

    def sample(self, rng: np.random.Generator, context: Context) -> TransposeParams | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        order = list(range(len(context.patch_size)))
        for size in sorted({context.patch_size[axis] for axis in context.resampled_axes}):
            equal = [axis for axis in context.resampled_axes if context.patch_size[axis] == size]
            for place, axis in zip(equal, rng.permutation(equal), strict=True):
                order[place] = int(axis)
        return TransposeParams(tuple(order)) if order != sorted(order) else None

    def apply(self, image: Tensor, labels: Tensor, params: TransposeParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) and `labels` (L, *spatial), transposed."""
        for volume in (*image, *labels):
            volume.copy_(volume.permute(params.order).clone())
        return image, labels
