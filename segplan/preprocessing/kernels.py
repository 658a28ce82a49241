"""Compiled inner loops of resampling. Imported only where a grid really changes, since numba takes time to import.

Single-threaded and without the interpreter lock; the machine code is cached on disk beside this file (or in the
user's cache where that is read-only), with one signature each so that little is ever compiled.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])

_VOLUME_IN = types.Array(types.float32, 3, "A", readonly=True)
_VOLUME_OUT = types.Array(types.float32, 3, "A")
_LINES_IN = types.Array(types.float32, 2, "A", readonly=True)
_LINES_OUT = types.Array(types.float32, 2, "A")
_LABELS_IN = types.Array(types.int16, 3, "C", readonly=True)
_LABELS_OUT = types.Array(types.int16, 3, "C")
_TABLE = types.Array(types.float64, 2, "C")
_INDEX = types.Array(types.int64, 1, "C")
_NODES = types.Array(types.int64, 2, "C")

LANES = 32
"""Lines worked on side by side, so that the recursive filter vectorises across them; 32 × 1000 doubles fit a cache."""

MARGIN = 2
"""Coefficients kept beyond either end of a line: the reach of a cubic spline sampled at most half a voxel outside."""

_POLE = np.sqrt(3.0) - 2.0
_GAIN = 6.0


def _compiled(*signature: Any, returns: Any = types.void, fused: bool = True) -> Callable[[F], F]:
    """Compile for one signature; `fused` multiply-adds are faster but round sums of equal terms differently."""

    def compile_function(function: F) -> F:
        compiler = partial(numba.njit, returns(*signature), nogil=True, fastmath={"contract"} if fused else False)
        try:
            return cast(F, compiler(cache=True)(function))
        except (RuntimeError, OSError):  # nowhere to write the cache: a read-only container, a full disk
            return cast(F, compiler(cache=False)(function))

    return compile_function


@_compiled(_TABLE, types.int64)
def _filter_cubic(line: NDArray[np.float64], size: int) -> None:
    """Turn samples (rows MARGIN to MARGIN + size) into cubic B-spline coefficients, MARGIN rows beyond them included.

    The line goes on for ever with its end values. Both recursions then have closed-form starts; 12 samples of edge
    padding, as scipy uses, differ from this by 1e-14 of the line's range.
    """
    last = MARGIN + size - 1
    rows = size + 2 * MARGIN
    start = np.empty(LANES)
    end = np.empty(LANES)
    for k in range(LANES):
        start[k] = _GAIN * line[MARGIN, k] / (1.0 - _POLE)
        end[k] = _GAIN * line[last, k] / (1.0 - _POLE)
    for i in range(MARGIN + 1):
        for k in range(LANES):
            line[i, k] = start[k]
    for i in range(MARGIN + 1, last + 1):
        for k in range(LANES):
            line[i, k] = _GAIN * line[i, k] + _POLE * line[i - 1, k]
    for i in range(last + 1, rows):
        for k in range(LANES):
            line[i, k] = (1.0 - _POLE) * end[k] + _POLE * line[i - 1, k]
    for k in range(LANES):
        settled = -_POLE / (1.0 - _POLE) * end[k]
        line[rows - 1, k] = settled - _POLE / (1.0 - _POLE * _POLE) * (line[rows - 1, k] - end[k])
    for i in range(rows - 2, -1, -1):
        for k in range(LANES):
            line[i, k] = _POLE * (line[i + 1, k] - line[i, k])


@_compiled(_LINES_IN, _LINES_OUT, _TABLE, _INDEX, _TABLE)
def _resample_lines(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    line: NDArray[np.float64],
    first: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> None:
    """Resample up to LANES lines: source (n, lanes) to target (m, lanes), by way of the buffer `line`."""
    size, lanes = source.shape
    taps = weights.shape[1]
    for i in range(size):
        for k in range(lanes):
            line[MARGIN + i, k] = source[i, k]
    if taps == 4:
        _filter_cubic(line, size)
    value = np.empty(LANES)
    for j in range(target.shape[0]):
        row = MARGIN + first[j]
        for k in range(LANES):
            value[k] = weights[j, 0] * line[row, k] + weights[j, 1] * line[row + 1, k]
        if taps == 4:
            for k in range(LANES):
                value[k] += weights[j, 2] * line[row + 2, k] + weights[j, 3] * line[row + 3, k]
        for k in range(lanes):
            target[j, k] = value[k]


@_compiled(_VOLUME_IN, _VOLUME_OUT, _INDEX, _TABLE)
def resample_axis(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    first: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> None:
    """Resample the middle axis of a volume.

    Args:
        source: (A, n, B), any strides.
        target: (A, m, B), written to.
        first: (m,) index of the first source sample that an output uses (-2 to n - 1, ends are continued).
        weights: (m, 4) for cubic B-spline coefficients, (m, 2) for the samples themselves (linear).
    """
    line = np.zeros((source.shape[1] + 2 * MARGIN, LANES))
    for a in range(source.shape[0]):
        for start in range(0, source.shape[2], LANES):
            stop = min(start + LANES, source.shape[2])
            _resample_lines(source[a, :, start:stop], target[a, :, start:stop], line, first, weights)


@_compiled(
    types.Array(types.int16, 1, "C"),
    types.Array(types.float64, 1, "C"),
    types.int64,
    types.int64,
    returns=types.int16,
    fused=False,
)
def _winner(near: NDArray[np.int16], weight: NDArray[np.float64], nearest: int, ignored: int) -> np.int16:
    winner: np.int16 = near[0]
    best = -1.0
    for corner in range(8):
        if near[corner] == ignored and nearest != ignored:
            continue
        total = 2.0 if near[corner] == ignored else 0.0
        for other in range(8):  # always in the same order, so that equal sums are equal bit for bit
            if near[other] == near[corner]:
                total += weight[other]
        tie_won = total == best and (near[corner] == nearest or (winner != nearest and near[corner] < winner))
        if total > best or tie_won:
            best = total
            winner = near[corner]
    return winner


@_compiled(_LABELS_IN, _LABELS_OUT, types.UniTuple(_NODES, 3), types.UniTuple(_TABLE, 3), types.int64, fused=False)
def vote_labels(
    labels: NDArray[np.int16],
    target: NDArray[np.int16],
    nodes: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    shares: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    ignored: int,
) -> None:
    """Give each output voxel the label with the largest sum of linear weights among its eight neighbours.

    Exact ties go to the nearest neighbour's label if it is among the tied ones, else to the smallest.

    Args:
        labels: (Z, Y, X).
        target: the output, written to.
        nodes: per axis (size of target, 3): lower, upper and nearest source index.
        shares: per axis (size of target, 2): weights of lower and upper.
        ignored: a label that wins where it is the nearest neighbour's, and only there.
    """
    near = np.empty(8, dtype=np.int16)
    weight = np.empty(8)
    for i in range(target.shape[0]):
        z, z_nearest = nodes[0][i], nodes[0][i, 2]
        for j in range(target.shape[1]):
            y, y_nearest = nodes[1][j], nodes[1][j, 2]
            row0, row1 = labels[z[0], y[0]], labels[z[0], y[1]]
            row2, row3 = labels[z[1], y[0]], labels[z[1], y[1]]
            for k in range(target.shape[2]):
                low, high = nodes[2][k, 0], nodes[2][k, 1]
                near[0], near[1], near[2], near[3] = row0[low], row0[high], row1[low], row1[high]
                near[4], near[5], near[6], near[7] = row2[low], row2[high], row3[low], row3[high]
                differing = 0
                for corner in range(1, 8):
                    differing |= near[corner] ^ near[0]
                if differing == 0:
                    target[i, j, k] = near[0]
                    continue
                for corner in range(8):
                    weight[corner] = (
                        shares[0][i, corner >> 2] * shares[1][j, (corner >> 1) & 1] * shares[2][k, corner & 1]
                    )
                target[i, j, k] = _winner(near, weight, labels[z_nearest, y_nearest, nodes[2][k, 2]], ignored)


def were_compiled() -> bool:
    """Whether importing this module compiled it, which takes some seconds, in place of loading the cached code."""
    kernels: tuple[Any, ...] = (resample_axis, vote_labels)
    return any(bool(kernel.stats.cache_misses) for kernel in kernels)
