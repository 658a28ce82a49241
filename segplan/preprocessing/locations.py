"""Where the foreground of a case lies: a sample of voxels a class, drawn once, from which training picks patch centres.

Number, order and random stream are those of nnU-Net 2.8.1, so that both programs sample the same voxels.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segplan.dataset import Labels

SEED = 1234
MAX_LOCATIONS = 10_000
MIN_FRACTION = 0.01
"""At least this share of a class is kept, however many voxels that is."""

ANNOTATED = "annotated"
"""Key of all annotated voxels; exists where the dataset has an ignore label."""

_CHUNK = 1 << 19
"""Voxels looked at together, so that memory does not grow with the case."""

_INT32_MAX = np.iinfo(np.int32).max

Flat = NDArray[np.int64]


@dataclass(frozen=True)
class _Request:
    """Voxels of one label asked for by one key: `ranks` in C order among the label's voxels, bound for `slots`."""

    key: str
    slots: Flat
    ranks: Flat


def location_keys(label_def: Labels) -> dict[str, tuple[int, ...]]:
    """Each class's key, "1" for a label and "(1, 2)" for a region, with the label values that it covers."""
    targets = label_def.foreground_regions if label_def.has_regions else label_def.foreground_labels
    keys = {str(target): (target,) if isinstance(target, int) else tuple(target) for target in targets}
    if label_def.ignore is not None:
        keys[ANNOTATED] = (-1, *label_def.all_labels)
    return keys


def foreground_locations(labels: NDArray[np.integer], label_def: Labels) -> dict[str, NDArray[np.int32]]:
    """Draw voxels of every class.

    Args:
        labels: (Z, Y, X) on the network's grid.
        label_def: the dataset's labels.

    Returns:
        per key of `location_keys` an (N, 3) array of voxel indices, N = 0 for an absent class.
    """
    keys = location_keys(label_def)
    counts = _count(labels)
    random = np.random.RandomState(SEED)
    found: dict[str, Flat] = {}
    requests: dict[int, list[_Request]] = {}
    for key, values in keys.items():
        sizes = [counts.get(value, 0) for value in values]
        total = sum(sizes)
        number = max(min(MAX_LOCATIONS, total), math.ceil(total * MIN_FRACTION))
        draws = _draw(random, total, number)
        found[key] = np.empty(number, dtype=np.int64)
        ends = np.cumsum(sizes)
        owner = np.searchsorted(ends, draws, side="right")
        for position, value in enumerate(values):
            slots = np.flatnonzero(owner == position)
            ranks = draws[slots] - (ends[position] - sizes[position])
            requests.setdefault(value, []).append(_Request(key, slots, ranks))
    for value, flat in _find(labels, {value: [r.ranks for r in asked] for value, asked in requests.items()}).items():
        for request, indices in zip(requests[value], flat, strict=True):
            found[request.key][request.slots] = indices
    return {key: _coordinates(found[key], labels.shape) for key in keys}


def _draw(random: np.random.RandomState, total: int, number: int) -> Flat:
    """`random.choice(total, number, replace=False)`, draw by draw, in half its memory: the class may be all voxels."""
    if not total:
        return np.empty(0, dtype=np.int64)
    order = np.arange(total, dtype=np.int32 if total <= _INT32_MAX else np.int64)
    random.shuffle(order)
    return order[:number].astype(np.int64)


def _chunks(labels: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.integer]]]:
    flat = labels.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield start, flat[start : start + _CHUNK]


def _count(labels: NDArray[np.integer]) -> dict[int, int]:
    """Voxels of each label that is present."""
    counts: Counter[int] = Counter()
    for _, chunk in _chunks(labels):
        low = int(chunk.min())
        histogram = np.bincount(chunk.astype(np.int32) - low)
        counts.update({low + int(value): int(histogram[value]) for value in np.flatnonzero(histogram)})
    return dict(counts)


def _find(labels: NDArray[np.integer], ranks: Mapping[int, Sequence[Flat]]) -> dict[int, list[Flat]]:
    """Flat indices of the voxels with the given ranks (in C order) among those of their label."""
    found = {value: [np.empty_like(asked) for asked in lists] for value, lists in ranks.items()}
    seen = dict.fromkeys(ranks, 0)
    only_foreground = min(ranks, default=1) > 0
    for start, chunk in _chunks(labels):
        here = np.flatnonzero(chunk > 0) if only_foreground else np.arange(chunk.size)
        here = here[np.argsort(chunk[here], kind="stable")]
        label = chunk[here]
        for value, lists in ranks.items():
            first, last = np.searchsorted(label, (value, value + 1))
            for asked, indices in zip(lists, found[value], strict=True):
                inside = (asked >= seen[value]) & (asked < seen[value] + last - first)
                indices[inside] = start + here[first + asked[inside] - seen[value]]
            seen[value] += int(last - first)
    return found


def _coordinates(flat: Flat, shape: tuple[int, ...]) -> NDArray[np.int32]:
    return np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int32)
