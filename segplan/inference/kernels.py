"""Compiled inner loop of the export: from two planes of logits to one plane of labels on the image's own grid."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])

_LOGITS = types.Array(types.float32, 4, "C", readonly=True)
_INDEX = types.Array(types.int64, 2, "C", readonly=True)
_SHARE = types.Array(types.float32, 1, "C", readonly=True)
_VALUES = types.Array(types.int32, 1, "C", readonly=True)
_PLANE = types.Array(types.int32, 2, "C")
_ROWS = types.Array(types.float32, 3, "A")
_ENTROPY = types.Array(types.float32, 2, "A")
SOFTMAX, SIGMOID, AS_THEY_ARE = 0, 1, 2


_LABELS = types.void(
    types.UniTuple(_LOGITS, 2),
    types.UniTuple(types.int64, 2),
    types.float32,
    types.Tuple((_INDEX, _SHARE)),
    types.Tuple((_INDEX, _SHARE)),
    types.Tuple((_VALUES, types.boolean)),
    _PLANE,
)
_PROBABILITIES = types.void(
    types.UniTuple(_LOGITS, 2),
    types.UniTuple(types.int64, 2),
    types.float32,
    types.Tuple((_INDEX, _SHARE)),
    types.Tuple((_INDEX, _SHARE)),
    types.int64,
    _ROWS,
    _ENTROPY,
)


def _compiled(signature: Any) -> Callable[[F], F]:
    def compiled(function: F) -> F:
        return cast(F, numba.njit(signature, nogil=True, cache=True, fastmath={"contract"})(function))

    return compiled


@_compiled(_LABELS)
def label_plane(  # noqa: PLR0917 numba calls by position
    slabs: tuple[NDArray[np.float32], NDArray[np.float32]],
    planes: tuple[int, int],
    share: float,
    rows: tuple[NDArray[np.int64], NDArray[np.float32]],
    columns: tuple[NDArray[np.int64], NDArray[np.float32]],
    classes: tuple[NDArray[np.int32], bool],
    target: NDArray[np.int32],
) -> None:
    """Interpolate one output plane of every class and keep only the winner; no class is ever stored.

    Args:
        slabs: two slabs (K, depth, Y, X), with the input plane below and the one above the output plane.
        planes: index of each in its slab.
        share: weight of the plane above.
        rows: input row below and above each output row (2, rows), and the weight of the one above (rows,).
        columns: the same for columns.
        classes: the label that each channel stands for (K,), and the rule. False: the channel with the largest logit
            wins, the first of equal ones. True (regions): every channel whose logit is positive, so its probability
            above a half, overwrites those before it.
        target: (rows, columns), written to.
    """
    below, above = slabs[0][:, planes[0]], slabs[1][:, planes[1]]
    values, painted = classes
    line = np.empty(below.shape[2], dtype=np.float32)
    best = np.empty(target.shape[1], dtype=np.float32)
    for i in range(target.shape[0]):
        low, high, up = rows[0][0, i], rows[0][1, i], rows[1][i]
        best[:] = 0 if painted else -np.inf
        target[i] = 0 if painted else values[0]
        for k in range(values.size):
            for x in range(line.size):
                first = below[k, low, x] + share * (above[k, low, x] - below[k, low, x])
                second = below[k, high, x] + share * (above[k, high, x] - below[k, high, x])
                line[x] = first + up * (second - first)
            if painted:
                best[:] = 0
            for j in range(best.size):
                left = line[columns[0][0, j]]
                value = left + columns[1][j] * (line[columns[0][1, j]] - left)
                wins = value > best[j]  # selections in place of a branch, so that this vectorises
                best[j] = value if wins else best[j]
                target[i, j] = values[k] if wins else target[i, j]


@_compiled(_PROBABILITIES)
def probability_rows(  # noqa: PLR0912, PLR0917 numba calls by position, and compiles functions one by one
    slabs: tuple[NDArray[np.float32], NDArray[np.float32]],
    planes: tuple[int, int],
    share: float,
    rows: tuple[NDArray[np.int64], NDArray[np.float32]],
    columns: tuple[NDArray[np.int64], NDArray[np.float32]],
    rule: int,
    target: NDArray[np.float32],
    entropy: NDArray[np.float32],
) -> None:
    """Interpolate some rows of an output plane of every class, and turn them into probabilities.

    Args:
        slabs: see `label_plane`, as the four after it.
        planes: see there.
        share: see there.
        rows: see there.
        columns: see there.
        rule: SOFTMAX over the classes, SIGMOID of each, or AS_THEY_ARE.
        target: (K, rows, columns), written to.
        entropy: (rows, columns), written to unless it is empty: nats; with SIGMOID the sum over the classes.
    """
    below, above = slabs[0][:, planes[0]], slabs[1][:, planes[1]]
    line = np.empty(below.shape[2], dtype=np.float32)
    largest = np.empty(target.shape[2], dtype=np.float32)
    total = np.empty(target.shape[2], dtype=np.float32)
    for i in range(target.shape[1]):
        low, high, up = rows[0][0, i], rows[0][1, i], rows[1][i]
        largest[:], total[:] = -np.inf, 0
        for k in range(target.shape[0]):
            for x in range(line.size):
                first = below[k, low, x] + share * (above[k, low, x] - below[k, low, x])
                second = below[k, high, x] + share * (above[k, high, x] - below[k, high, x])
                line[x] = first + up * (second - first)
            for j in range(largest.size):
                left = line[columns[0][0, j]]
                value = left + columns[1][j] * (line[columns[0][1, j]] - left)
                target[k, i, j] = value
                largest[j] = max(largest[j], value)
        if rule == 0:
            for k in range(target.shape[0]):
                for j in range(largest.size):
                    value = np.exp(target[k, i, j] - largest[j])
                    target[k, i, j] = value
                    total[j] += value
        for k in range(target.shape[0]):
            for j in range(largest.size):
                if rule == 0:
                    target[k, i, j] /= total[j]
                elif rule == 1:
                    target[k, i, j] = np.float32(1) / (np.float32(1) + np.exp(-target[k, i, j]))
        if entropy.size:
            entropy[i] = 0
            for k in range(target.shape[0]):
                for j in range(largest.size):
                    value = target[k, i, j]
                    if value > 0:
                        entropy[i, j] -= value * np.log(value)
                    if rule == 1 and value < 1:
                        entropy[i, j] -= (np.float32(1) - value) * np.log(np.float32(1) - value)
