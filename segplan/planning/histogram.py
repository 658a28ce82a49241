"""Sparse histograms of float32 intensities, fine enough to give percentiles, small enough to send between processes.

A value's key is the upper 22 bits of its float32, mapped so that keys sort as the values do. So integers up to 16384 in
magnitude have a key each, and all other values a bin of relative width 2^-13.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DROPPED_BITS = np.uint32(10)
_SIGN = np.uint32(1 << 31)
_FRACTION = np.uint32((1 << 10) - 1)
_CHUNK = 1 << 22  # values whose keys are held at a time
_PENDING_LIMIT = 1 << 20  # sparse entries that wait before they are merged
_UNITS = 2.0**36  # of weight in each case
_TIE = 1e-10  # cumulated weights that differ by less are equal


@dataclass(frozen=True)
class Histogram:
    """Keys in ascending order with how often each occurs; `exact` if every value is the first of its bin."""

    keys: NDArray[np.uint32]
    counts: NDArray[np.uint32]
    exact: bool


def histogram(values: NDArray[np.float32]) -> Histogram:
    """Count finite float32 `values` (N,)."""
    keys, counts, exact = np.empty(0, np.uint32), np.empty(0, np.float64), True
    for start in range(0, len(values), _CHUNK):
        bits = (values[start : start + _CHUNK] + np.float32(0.0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
        exact = exact and not np.bitwise_or.reduce(bits & _FRACTION)
        chunk_keys, chunk_counts = np.unique(_keys(bits), return_counts=True)
        if start == 0:
            keys, counts = chunk_keys, chunk_counts.astype(np.float64)
        else:
            keys, counts = _merged([(keys, counts), (chunk_keys, chunk_counts.astype(np.float64))])
    return Histogram(keys, counts.astype(np.uint32), bool(exact))


class WeightedHistogram:
    """The equal-weight mixture of cases: each added histogram weighs 1 in all, whatever its number of voxels.

    Memory is bounded by the number of different keys (at most 2^22), however many histograms are added. Weights are
    whole multiples of 2^-36, whose sums are exact up to 131072 cases: the order of adding does not matter.
    """

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint32)
        self._weights = np.empty(0, np.float64)
        self._pending: list[tuple[NDArray[np.uint32], NDArray[np.float64]]] = []
        self._pending_size = 0
        self._exact = True

    def add(self, case: Histogram) -> None:
        """Add the histogram of one case, which must not be empty."""
        cumulative = np.cumsum(case.counts, dtype=np.float64)
        # Rounded as sums, so that the error of a percentile stays below one unit however many keys there are.
        weights = np.diff(np.rint(cumulative * (_UNITS / cumulative[-1])), prepend=0.0)
        self._pending.append((case.keys, weights))
        self._pending_size += len(case.keys)
        self._exact = self._exact and case.exact
        if self._pending_size > _PENDING_LIMIT:
            self._merge_pending()

    def percentiles(self, percents: Sequence[float], low: float, high: float) -> list[float]:
        """Percentiles of the mixture: what numpy's linear ones tend to if every case is repeated ever more often.

        Within a bin that holds more than one value, the values count as spread evenly.

        Args:
            percents: 0 to 100.
            low: exact minimum of the values.
            high: exact maximum of the values.
        """
        self._merge_pending()
        cumulative = np.cumsum(self._weights)
        cumulative /= cumulative[-1]
        lower, upper = _bin_ends(self._keys, self._exact)
        found = [_quantile(cumulative, lower, upper, percent / 100) for percent in percents]
        return [min(max(value, low), high) for value in found]

    def _merge_pending(self) -> None:
        if self._pending:
            self._keys, self._weights = _merged([(self._keys, self._weights), *self._pending])
            self._pending, self._pending_size = [], 0


def _keys(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    ordered: NDArray[np.uint32] = np.where(bits & _SIGN, ~bits, bits | _SIGN) >> _DROPPED_BITS
    return ordered


def _merged(
    parts: Sequence[tuple[NDArray[np.uint32], NDArray[np.float64]]],
) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    keys, where = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    weights = np.bincount(where, np.concatenate([part[1] for part in parts]), len(keys))
    return keys, weights.astype(np.float64)


def _bin_ends(keys: NDArray[np.uint32], exact: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest value of each key's bin; twice the value nearest zero if `exact`."""
    ordered = keys << _DROPPED_BITS
    nearest_zero = np.where(ordered & _SIGN, ordered ^ _SIGN, ~(ordered | _FRACTION))
    first = nearest_zero.view(np.float32).astype(np.float64)
    if exact:
        return first, first
    last = (nearest_zero | _FRACTION).view(np.float32).astype(np.float64)
    return np.minimum(first, last), np.maximum(first, last)


def _quantile(
    cumulative: NDArray[np.float64], lower: NDArray[np.float64], upper: NDArray[np.float64], q: float
) -> float:
    index = min(int(np.searchsorted(cumulative, q - _TIE)), len(cumulative) - 1)
    reached = float(cumulative[index])
    if abs(reached - q) <= _TIE and index + 1 < len(cumulative):
        # The percentile falls between two bins: numpy's linear rule then goes 1 - q of the way.
        return float(upper[index] + (1 - q) * (lower[index + 1] - upper[index]))
    before = float(cumulative[index - 1]) if index else 0.0
    return float(lower[index] + (q - before) / (reached - before) * (upper[index] - lower[index]))
