"""Quarter turns in planes whose two axes are equally long."""

import itertools
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability


@dataclass(frozen=True)
class Rotate90Params:
    """The plane (two spatial axes) and the number of quarter turns."""

    axes: tuple[int, int]
    turns: int


@dataclass(frozen=True)
class Rotate90:
    """Turn by 0 to 3 right angles in one plane, drawn among those whose axes have the same number of voxels.

    In dummy-2D, axis 0 takes no part. A patch of three different sizes stays as it is.

    Args:
        probability: share of samples.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability("rotate90.probability", self.probability)

    def sample(self, rng: np.random.Generator, context: Context) -> Rotate90Params | None:
        """Draw the parameters, or None where the sample stays as it is."""
        if rng.random() >= self.probability:
            return None
        planes = [pair for pair in itertools.combinations(context.resampled_axes, 2) if context.is_square(pair)]
        if not planes:
            return None
        axes = planes[rng.integers(len(planes))]
        return Rotate90Params((axes[0], axes[1]), turns) if (turns := int(rng.integers(4))) else None

    def apply(self, image: Tensor, labels: Tensor, params: Rotate90Params) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) and `labels` (L, *spatial), turned."""
        for volume in (*image, *labels):
            volume.copy_(volume.rot90(params.turns, params.axes).clone())
        return image, labels
