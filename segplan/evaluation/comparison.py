"""How sure a comparison of models is: bootstrap intervals of a score, and paired tests between two models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Of the bootstrap."""


def score_of(summary: Mapping[str, Any], metric: str = "Dice") -> float:
    """Mean over the classes that occur of their means over cases; NaN if none occurs."""
    return float(_score(_table(summary, metric)))


def scores_of_cases(summary: Mapping[str, Any], metric: str = "Dice") -> NDArray[np.float64]:
    """Mean over the classes that occur, of each case (N,); NaN where none does."""
    return _nanmean(_table(summary, metric), axis=1)


def bootstrap_interval(
    summary: Mapping[str, Any], metric: str = "Dice", *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `score_of` when the cases are drawn anew with replacement.

    Returns:
        Lower and upper end.
    """
    table = _table(summary, metric)
    rng = np.random.default_rng(seed)
    scores = [_score(table[rng.integers(0, len(table), len(table))]) for _ in range(draws)]
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(scores, [tail, 100 - tail]) if not np.isnan(scores).all() else (math.nan, math.nan)
    return float(low), float(high)


def paired_p_value(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test over cases (N,) that both have; 1 where they never differ."""
    from scipy.stats import wilcoxon

    difference = first - second
    difference = difference[~np.isnan(difference)]
    if not np.any(difference):
        return 1.0
    return float(wilcoxon(difference).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm, 1979), in the given order."""
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _table(summary: Mapping[str, Any], metric: str) -> NDArray[np.float64]:
    """The metric of each case and target, (N, T)."""
    rows = [[float(values[metric]) for values in case["metrics"].values()] for case in summary["metric_per_case"]]
    return np.array(rows, np.float64).reshape(len(rows), -1)


def _score(table: NDArray[np.float64]) -> float:
    return float(_nanmean(_nanmean(table, axis=0)[None], axis=1)[0])


def _nanmean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """`np.nanmean` that says nothing of what is all NaN."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
