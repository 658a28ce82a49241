"""How many lesions were found: connected components of a prediction matched with those of its reference."""

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of a case.

    Args:
        reference: lesions of the reference.
        found: those of them that the prediction covers.
        predicted: lesions of the prediction.
        right: those of them that the reference covers.
    """

    reference: int
    found: int
    predicted: int
    right: int

    @property
    def sensitivity(self) -> float:
        """Share of the reference's lesions that were found; NaN where there is none to find."""
        return self.found / self.reference if self.reference else nan

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that are right; with none predicted 0, or NaN where there was none to find."""
        if self.predicted:
            return self.right / self.predicted
        return 0.0 if self.reference else nan

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where one side has no lesion, NaN where neither has one."""
        if not self.reference and not self.predicted:
            return nan
        if not self.reference or not self.predicted or self.found + self.right == 0:
            return 0.0
        return 2 * self.sensitivity * self.precision / (self.sensitivity + self.precision)


def count_lesions(prediction: Mask, reference: Mask, least_overlap: float = 0.0) -> LesionCounts:
    """Count the lesions of a case: components of voxels that touch by face, edge or corner.

    Args:
        prediction: mask (Z, Y, X).
        reference: likewise, of the same shape.
        least_overlap: share of a lesion's voxels that the other mask must cover; 0: one voxel is enough.
    """
    found, lesions = _covered(reference, prediction, least_overlap)
    right, predicted = _covered(prediction, reference, least_overlap)
    return LesionCounts(lesions, found, predicted, right)


def _covered(mask: Mask, other: Mask, least_overlap: float) -> tuple[int, int]:
    """How many components of the mask the other one covers, and how many there are."""
    import cc3d

    if not mask.any():
        return 0, 0
    numbers: NDArray[Any] = cc3d.connected_components(mask, connectivity=26)
    sizes = np.bincount(numbers.ravel())[1:]
    common = np.bincount(numbers[other].ravel(), minlength=len(sizes) + 1)[1:]
    return int(((common > 0) & (common >= least_overlap * sizes)).sum()), len(sizes)
