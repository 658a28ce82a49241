"""Overlap of a segmentation with its reference: all counts of a case from one joint histogram.

Every voxel adds one to a table reference value × predicted value; true and false positives of each label or region are
sums over parts of that table, so that the cost does not grow with the number of classes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.dataset.labels import Labels

METRICS = ("Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref")
_CHUNK_VOXELS = 1 << 20  # the working memory of a chunk is some 40 MB

LabelArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Targets:
    """What is evaluated.

    Args:
        values: label values of each target by its key in summary.json: "3", or "(1, 2, 3)" for a region.
        names: a name for each key, for tables.
        ignore: voxels where the reference has this value are left out, or None.
    """

    values: Mapping[str, tuple[int, ...]]
    names: Mapping[str, str]
    ignore: int | None = None

    @classmethod
    def from_labels(cls, labels: Labels) -> "Targets":
        """The foreground labels in ascending order, or the foreground regions in declared order."""
        declared = [(name, labels.names[name], members) for name, members in labels.targets.items()]
        if not labels.has_regions:
            declared = sorted(
                ((name, members[0], members) for name, _, members in declared), key=lambda entry: entry[2]
            )
        values = {str(key): members for _, key, members in declared}
        return cls(values, {str(key): name for name, key, _ in declared}, labels.ignore)

    @classmethod
    def from_values(cls, values: list[int]) -> "Targets":
        """One target for each value but 0: where nothing tells the names."""
        foreground = sorted(set(values) - {0})
        return cls(
            {str(value): (value,) for value in foreground}, {str(value): f"label {value}" for value in foreground}
        )

    def only(self, labels: tuple[int, ...]) -> "Targets":
        """The targets that have one of some labels."""
        values = {key: members for key, members in self.values.items() if set(members) & set(labels)}
        return Targets(values, {key: self.names[key] for key in values}, self.ignore)


@dataclass(frozen=True)
class Counts:
    """Voxels of one target in one case: true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def dice(self) -> float:
        """NaN where neither side has the target."""
        sizes = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / sizes if sizes else math.nan

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(self.tp - other.tp, self.fp - other.fp, self.fn - other.fn, self.tn - other.tn)

    def metrics(self) -> dict[str, float]:
        """The case's metrics under nnU-Net's names: Dice and IoU are NaN where neither side has the target."""
        union = self.tp + self.fp + self.fn
        return {
            "Dice": self.dice,
            "FN": self.fn,
            "FP": self.fp,
            "IoU": self.tp / union if union else math.nan,
            "TN": self.tn,
            "TP": self.tp,
            "n_pred": self.tp + self.fp,
            "n_ref": self.tp + self.fn,
        }


def confusion_counts(prediction: LabelArray, reference: LabelArray, labels: Labels | Targets) -> dict[str, Counts]:
    """Counts of every target of a case.

    Args:
        prediction: label map of integers, any shape; values that belong to no target count as background.
        reference: label map of the same shape.
        labels: what to evaluate.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    targets = labels if isinstance(labels, Targets) else Targets.from_labels(labels)
    known = sorted({value for members in targets.values.values() for value in members} - {0})
    if targets.ignore is not None:
        known = sorted({*known, targets.ignore})
    table = _joint_histogram(prediction.ravel(), reference.ravel(), np.asarray(known, np.int64))
    if targets.ignore is not None:
        table[1 + known.index(targets.ignore)] = 0
    total = int(table.sum())
    return {key: _counts_of(table, total, members, known) for key, members in targets.values.items()}


def case_metrics(
    prediction: LabelArray, reference: LabelArray, labels: Labels | Targets
) -> dict[str, dict[str, float]]:
    """Metrics of every target of a case, as they stand in summary.json: `{"1": {"Dice": …, "TP": …}}`."""
    counts = confusion_counts(prediction, reference, labels)
    return {key: target.metrics() for key, target in counts.items()}


def _joint_histogram(prediction: LabelArray, reference: LabelArray, known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Voxels by (reference, prediction), each 0 for a value that is not known, else 1 + its index in `known`."""
    size = len(known) + 1
    table = np.zeros(size * size, np.int64)
    for chunk in _chunks(prediction.size):
        joint = positions(reference[chunk], known) * size + positions(prediction[chunk], known)
        table += np.bincount(joint, minlength=size * size)
    return table.reshape(size, size)


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _CHUNK_VOXELS):
        yield slice(start, start + _CHUNK_VOXELS)


def positions(values: LabelArray, known: NDArray[np.int64]) -> NDArray[np.intp]:
    """1 + index of each value in the ascending `known`, 0 where it is not there."""
    if not known.size:
        return np.zeros(values.shape, np.intp)
    low, high = min(int(known[0]), 0), int(known[-1])
    if high - low < 1 << 16:
        lookup = np.zeros(high - low + 3, np.intp)  # the first and the last entry stand for everything out of range
        lookup[known - low + 1] = np.arange(1, len(known) + 1)
        return np.take(lookup, values.astype(np.int64) - (low - 1), mode="clip")
    index = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[index] == values, index + 1, 0)


def _counts_of(table: NDArray[np.int64], total: int, members: tuple[int, ...], known: list[int]) -> Counts:
    """Sums over the rows and columns of a target's members."""
    index = np.array([0 if value == 0 else 1 + known.index(value) for value in members])
    tp = int(table[np.ix_(index, index)].sum())
    n_ref, n_pred = int(table[index].sum()), int(table[:, index].sum())
    return Counts(tp, n_pred - tp, n_ref - tp, total - n_pred - n_ref + tp)
