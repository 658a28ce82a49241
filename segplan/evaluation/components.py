"""Sizes of connected components, and their removal, slab by slab: a label map of any length in bounded memory.

All classes of a map are looked at in one pass: neighbours belong together where they are of the same class.
Voxels that touch by a face, an edge or a corner belong together (26 neighbours in 3D, 8 in a single slice), which is
nnU-Net's rule. Slabs overlap by one slice; a voxel of that slice has a component in both, which joins the two.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CONNECTIVITY = 26
_SLAB_VOXELS = 1 << 24  # a slab's working memory is some 6 bytes a voxel

LabelArray = NDArray[np.integer[Any]]
ClassArray = NDArray[np.bool_ | np.integer[Any]]
ReadClasses = Callable[[int, int], ClassArray]


@dataclass(frozen=True)
class Components:
    """The components of a map of classes that was read in slabs.

    Args:
        sizes: voxels of each component (N,).
        classes: of each component (N,).
        component_of: for each slab, the component of each of its provisional numbers; entry 0 is the background, -1.
        slabs: first and last (exclusive) slice of each slab, without the slice that it shares with the one before.
    """

    sizes: NDArray[np.int64]
    classes: NDArray[np.int64]
    component_of: tuple[NDArray[np.int64], ...]
    slabs: tuple[tuple[int, int], ...]


def find_components(read_classes: ReadClasses, shape: tuple[int, ...], slab_voxels: int = _SLAB_VOXELS) -> Components:
    """Find the components of each class.

    Args:
        read_classes: gives the classes (d, Y, X) of slices z0 to z1; 0 belongs to none. A mask is a single class.
        shape: of the whole map, (Z, Y, X).
        slab_voxels: how much is looked at in one go.
    """
    slabs = tuple(_slabs(shape, slab_voxels))
    counts: list[NDArray[np.int64]] = []
    class_of: list[NDArray[np.int64]] = []
    joined: list[NDArray[np.int64]] = []
    offset, above = 0, None
    for start, end in slabs:
        shared = int(start > 0)
        part = read_classes(start - shared, end)
        numbers, found = number_components(part)
        class_of.append(classes_of(part, numbers, found))
        counts.append(np.bincount(numbers[shared:].ravel(), minlength=found + 1)[1:].astype(np.int64))
        if above is not None:
            touching = numbers[0] > 0
            pairs = np.stack([above[touching], numbers[0][touching].astype(np.int64) + (offset - 1)])
            joined.append(np.unique(pairs, axis=1))
        above, offset = numbers[-1].astype(np.int64) + (offset - 1), offset + found
    roots = _roots(offset, joined)
    unique, component = np.unique(roots, return_inverse=True)
    classes = np.concatenate([*class_of, np.zeros(0, np.int64)])[unique]
    voxels = np.concatenate([*counts, np.zeros(0, np.int64)])
    sizes = np.bincount(component, weights=voxels, minlength=len(unique)).astype(np.int64)
    return Components(sizes, classes, tuple(_split(component, [len(count) for count in counts])), slabs)


def remove_components(
    labels: LabelArray, read_classes: ReadClasses, components: Components, removed: NDArray[np.bool_]
) -> None:
    """Set the voxels of some components to 0.

    Args:
        labels: label map (Z, Y, X), changed in place.
        read_classes: as in `find_components`; it may look at `labels`.
        components: what that function found.
        removed: which of them to remove (N,).
    """
    # From the last slab to the first, so that the slice that a slab shares with the one before is still as it was.
    for (start, end), component_of in zip(reversed(components.slabs), reversed(components.component_of), strict=True):
        is_removed = np.concatenate([[False], removed[component_of[1:]]])
        if not is_removed.any():
            continue
        shared = int(start > 0)
        numbers, _ = number_components(read_classes(start - shared, end))
        labels[start:end][is_removed[numbers[shared:]]] = 0


def number_components(classes: ClassArray) -> tuple[NDArray[Any], int]:
    """Number the components of a map of classes (Z, Y, X) from 1, always in the same way; and how many there are."""
    import cc3d

    if not classes.any():
        return np.zeros(classes.shape, np.uint8), 0
    numbers, count = cc3d.connected_components(classes, connectivity=_CONNECTIVITY, return_N=True)
    return numbers, int(count)


def classes_of(classes: ClassArray, numbers: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The class of each of the `count` components (N,) that `number_components` numbered."""
    found = np.zeros(count + 1, np.int64)
    found[numbers.ravel()] = classes.ravel()
    return found[1:]


def _slabs(shape: tuple[int, ...], slab_voxels: int) -> Iterator[tuple[int, int]]:
    depth = max(1, slab_voxels // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], depth):
        yield start, min(start + depth, shape[0])


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
