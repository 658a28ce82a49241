"""Mirroring along spatial axes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from segplan.augmentation.transform import Context, check_probability
from segplan.errors import ConfigError


@dataclass(frozen=True)
class MirrorParams:
    """The spatial axes that are flipped, and whether left and right labels are exchanged with them."""

    axes: tuple[int, ...]
    swaps: bool = False


@dataclass(frozen=True)
class Mirror:
    """Flip image and labels along each allowed axis, independently.

    Args:
        axes: allowed spatial axes, or "auto" for all. The axes that training mirrors are those that prediction
            may mirror too, so leave out those along which left and right must be told apart, or swap the labels.
        probability: share of samples flipped along an axis, for each axis on its own.
        swap_labels: pairs of labels that change places when `swap_axis` is mirrored, such as left and right kidney.
        swap_axis: the spatial axis from left to right; "auto" is the patch's last one, the x of most scans.
    """

    axes: tuple[int, ...] | Literal["auto"] = "auto"
    probability: float = 0.5
    swap_labels: tuple[tuple[int, int], ...] = ()
    swap_axis: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        check_probability("mirror.probability", self.probability)
        if self.axes != "auto" and not (isinstance(self.axes, tuple) and all(axis in (0, 1, 2) for axis in self.axes)):
            raise ConfigError(
                f"{self.axes!r} are no spatial axes",
                where="augmentation: mirror.axes",
                remedy="Use auto or a list like [0, 1].",
            )
        _check_swap(self.swap_labels, self.swap_axis)

    def resolved_swap_axis(self, dimensions: int) -> int:
        """Return the left-right axis in a patch of 2 or 3 `dimensions`.

        Raises:
            ConfigError: it lies beyond the patch's.
        """
        axis = dimensions - 1 if self.swap_axis == "auto" else self.swap_axis
        if axis >= dimensions:
            raise ConfigError(
                f"a {dimensions}D patch has no axis {axis}",
                where="augmentation: mirror.swap_axis",
                remedy=f"Use an axis from 0 to {dimensions - 1}.",
            )
        return axis

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
        swaps = bool(self.swap_labels) and self.resolved_swap_axis(len(context.patch_size)) in axes
        return MirrorParams(axes, swaps) if axes else None

    def apply(self, image: Tensor, labels: Tensor, params: MirrorParams) -> tuple[Tensor, Tensor]:
        """Return `image` (C, *spatial) and `labels` (L, *spatial), flipped."""
        for volume in (*image, *labels):  # one by one: a temporary of all channels would be slow to allocate
            volume.copy_(volume.flip(params.axes))
        if params.swaps:
            for left, right in self.swap_labels:
                is_left, is_right = labels == left, labels == right
                labels.masked_fill_(is_left, right).masked_fill_(is_right, left)
        return image, labels


def _check_swap(pairs: tuple[tuple[int, int], ...], axis: int | str) -> None:
    where = "augmentation: mirror.swap_labels"
    is_pairs = isinstance(pairs, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs)
    values = [value for pair in pairs for value in pair] if is_pairs else []
    if not is_pairs or not all(isinstance(value, int) and value > 0 for value in values):
        raise ConfigError(f"{pairs!r} are no pairs of labels", where, "Use a list of pairs like [[1, 2], [5, 6]].")
    if len(set(values)) < len(values):
        raise ConfigError(f"a label stands twice in {pairs!r}", where, "Name each label once.")
    if axis not in ("auto", 0, 1, 2):
        raise ConfigError(f"{axis!r} is no spatial axis", "augmentation: mirror.swap_axis", "Use auto, 0, 1 or 2.")
