"""Mirroring along spatial axes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability
from segplan.errors import ConfigError


@dataclass(frozen=True)
class MirrorParams:
    """The spatial axes that are flipped."""

    axes: tuple[int, ...]


@dataclass(frozen=True)
class Mirror:
    """Flip image and labels along each allowed axis, independently.

    Args:
        axes: allowed spatial axes, or "auto" for all. The axes that training mirrors are those that prediction
            may mirror too, so leave out those along which left and right must be told apart.
        probability: share of samples flipped along an axis, for each axis on its own.
    """

    axes: tuple[int, ...] | Literal["auto"] = "auto"
    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability("mirror.probability", self.probability)
        if self.axes != "auto" and not (isinstance(self.axes, tuple) and all(axis in (0, 1, 2) for axis in self.axes)):
            raise ConfigError(
                f"{self.axes!r} are no spatial axes",
                where="augmentation: mirror.axes",
                remedy="Use auto or a list like [0, 1].",
            )

    def resolved_axes(self, dimensions: int) -> tuple[int, ...]:
        """Return the axes that may be flipped in a patch of 2 or 3 `dimensions`.

        Raises:
            ConfigError: an axis lies beyond the patch's.
        """
        if self.axes == "auto":
            return tuple(range(dimensions))
        if any(axis >= dimensions for axis in self.axes):
            raise ConfigError(
                f"a {dimensions}D patch has no axis {max(self.axes)}",
                where="augmentation: mirror.axes",
                remedy=f"Use axes from 0 to {dimensions - 1}.",
            )
        return tuple(sorted(set(self.axes)))

    def sample(self, rng: np.random.Generator, context: Context) -> MirrorParams | None:
        """Draw the axes, or None where none is flipped."""
        allowed = self.resolved_axes(len(context.patch_size))
        axes = tuple(axis for axis in allowed if rng.random() < self.probability)
        return MirrorParams(axes) if axes else None

    def apply(self, image: Tensor, labels: Tensor, params: MirrorParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) and `labels` (L, *spatial), flipped."""
        dims = [axis + 1 for axis in params.axes]
        return image.flip(dims), labels.flip(dims)
