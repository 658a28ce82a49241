"""Sizes of connected components, and their removal, slab by slab: a label map of any length in bounded memory.

Voxels that touch by a face, an edge or a corner belong together (26 neighbours in 3D, 8 in a single slice), which is
nnU-Net's rule. Slabs overlap by one slice; a voxel of that slice has a component in both, which joins the two.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.evaluation.boxes import slabs

_CONNECTIVITY = 26
_SLAB_VOXELS = 1 << 24  # a slab's working memory is some 6 bytes a voxel

LabelArray = NDArray[np.integer[Any]]
ReadMask = Callable[[int, int], NDArray[np.bool_]]


@dataclass(frozen=True)
class Components:
    """The components of a mask that was read in slabs.

    Args:
        sizes: voxels of each component (N,).
        component_of: for each slab, the component of each of its provisional numbers; entry 0 is the background, -1.
        slabs: first and last (exclusive) slice of each slab, without the slice that it shares with the one before.
    """

    sizes: NDArray[np.int64]
    component_of: tuple[NDArray[np.int64], ...]
    slabs: tuple[tuple[int, int], ...]


def find_components(read_mask: ReadMask, shape: tuple[int, ...], slab_voxels: int = _SLAB_VOXELS) -> Components:
    """Find the components of a mask.

    Args:
        read_mask: gives slices z0 to z1 of the mask (d, Y, X).
        shape: of the whole mask, (Z, Y, X).
        slab_voxels: how much is looked at in one go.
    """
    all_slabs = tuple(slabs(shape, slab_voxels))
    counts: list[NDArray[np.int64]] = []
    joined: list[NDArray[np.int64]] = []
    offset, above = 0, None
    for start, end in all_slabs:
        shared = int(start > 0)
        numbers, found = _number(read_mask(start - shared, end))
        counts.append(np.bincount(numbers[shared:].ravel(), minlength=found + 1)[1:].astype(np.int64))
        if above is not None:
            touching = numbers[0] > 0
            pairs = np.stack([above[touching], numbers[0][touching].astype(np.int64) + (offset - 1)])
            joined.append(np.unique(pairs, axis=1))
        above, offset = numbers[-1].astype(np.int64) + (offset - 1), offset + found
    roots = _roots(offset, joined)
    unique, component = np.unique(roots, return_inverse=True)
    voxels = np.concatenate([*counts, np.zeros(0, np.int64)])
    sizes = np.bincount(component, weights=voxels, minlength=len(unique)).astype(np.int64)
    return Components(sizes, tuple(_split(component, [len(count) for count in counts])), all_slabs)


def remove_components(
    labels: LabelArray, read_mask: ReadMask, components: Components, removed: NDArray[np.bool_]
) -> None:
    """Set the voxels of some components to 0.

    Args:
        labels: label map (Z, Y, X), changed in place.
        read_mask: as in `find_components`; it may look at `labels`.
        components: what that function found.
        removed: which of them to remove (N,).
    """
    # From the last slab to the first, so that the slice that a slab shares with the one before is still as it was.
    for (start, end), component_of in zip(reversed(components.slabs), reversed(components.component_of), strict=True):
        is_removed = np.concatenate([[False], removed[component_of[1:]]])
        if not is_removed.any():
            continue
        shared = int(start > 0)
        numbers, _ = _number(read_mask(start - shared, end))
        labels[start:end][is_removed[numbers[shared:]]] = 0


def _number(mask: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    """Number the components of a mask from 1, always in the same way; and how many there are."""
    import cc3d

    if not mask.any():
        return np.zeros(mask.shape, np.uint8), 0
    numbers, count = cc3d.connected_components(mask, connectivity=_CONNECTIVITY, return_N=True)
    return numbers, int(count)


def _roots(count: int, joined: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The smallest number that each of `count` numbers is joined with, by pairs (2, N)."""
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for pairs in joined:
        for first, second in pairs.T.tolist():
            one, other = sorted((root(first), root(second)))
            parent[other] = one
    return np.array([root(number) for number in range(count)], np.int64)


def _split(component: NDArray[np.int64], counts: list[int]) -> Iterator[NDArray[np.int64]]:
    start = 0
    for count in counts:
        yield np.concatenate([[-1], component[start : start + count]]).astype(np.int64)
        start += count
