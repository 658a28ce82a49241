"""Batches in memory that the loader's processes share: workers write samples into it, training reads them in place.

The memory is anonymous (`memfd_create` on Linux), so it is not bound by /dev/shm, which in a container holds 64 MB:
less than one batch of two 128³ patches of four channels. It is made once and used again and again, so a batch costs
neither pickling nor fresh pages.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.heap import Arena
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from torch import Tensor

ArrayLayout = Mapping[str, tuple[tuple[int, ...], str]]
"""Per key of a sample that is an array, its shape and the name of its type."""

_ALIGNMENT = 4096


@dataclass(frozen=True)
class SlotLayout:
    """Where the arrays of a batch lie in a slot: key after key, each as one (samples, *shape) array.

    Args:
        arrays: of one sample.
        samples: of a batch.
    """

    arrays: ArrayLayout
    samples: int

    @property
    def size(self) -> int:
        """Bytes of a slot."""
        return sum(_aligned(self._bytes(key)) for key in self.arrays)

    def views(self, memory: Any, start: int) -> dict[str, np.ndarray]:
        """Return the arrays of the slot that begins at byte `start` of `memory`."""
        views = {}
        for key, (shape, dtype) in self.arrays.items():
            views[key] = np.frombuffer(memory, dtype, self.samples * math.prod(shape), start).reshape(
                self.samples, *shape
            )
            start += _aligned(self._bytes(key))
        return views

    def _bytes(self, key: str) -> int:
        shape, dtype = self.arrays[key]
        return self.samples * math.prod(shape) * np.dtype(dtype).itemsize


class BatchSlots:
    """A number of batches in shared memory. Picklable for a process that is being started.

    Args:
        layout: of each.
        count: how many.
    """

    def __init__(self, layout: SlotLayout, count: int) -> None:
        self.layout = layout
        self.count = count
        self._arena = anonymous_memory(max(1, layout.size * count))

    @property
    def size(self) -> int:
        """Bytes of all slots."""
        return self.layout.size * self.count

    def views(self, slot: int) -> dict[str, np.ndarray]:
        """Return the arrays (samples, *shape) of a slot."""
        return self.layout.views(self._arena.buffer, slot * self.layout.size)


def anonymous_memory(size: int) -> Arena:
    """Return shared memory of `size` bytes that no file system limits; elsewhere than on Linux a temporary file."""
    if not hasattr(os, "memfd_create"):
        return Arena(size)
    file = os.memfd_create("segplan-loader")
    os.ftruncate(file, size)
    arena = Arena(size, file)  # keeps the descriptor, to hand it to processes that are started later
    Finalize(arena, os.close, (file,))
    return arena


def lent(views: Mapping[str, np.ndarray], give_back: Callable[[], None]) -> dict[str, Tensor]:
    """Return tensors over `views`; `give_back` is called once none of them, nor any view of them, is left."""
    loan = _Loan(give_back)
    return {key: torch.from_numpy(np.asarray(_Lent(view, loan))) for key, view in views.items()}


def copied(views: Mapping[str, np.ndarray], pin_memory: bool) -> dict[str, Tensor]:
    """Return copies of `views` as tensors, in page-locked memory if asked for."""
    copies = {}
    for key, view in views.items():
        source = torch.from_numpy(view)
        copies[key] = torch.empty(source.shape, dtype=source.dtype, pin_memory=pin_memory).copy_(source)
    return copies


class FreeSlots:
    """Slots that nothing uses; they may come back from any thread, whenever the last tensor over one goes."""

    def __init__(self, count: int) -> None:
        self._numbers = deque(range(count))
        self._count = count

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self) -> int:
        """Take a free slot."""
        return self._numbers.popleft()

    def give_back(self, slot: int) -> None:
        """Return a slot."""
        self._numbers.append(slot)


class _Loan:
    """Calls `give_back` when nothing holds it any more."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    def __del__(self) -> None:
        self._give_back()


class _Lent:
    """Lets numpy make an array over another one's memory that keeps a loan alive."""

    def __init__(self, view: np.ndarray, loan: _Loan) -> None:
        self.__array_interface__ = view.__array_interface__
        self._kept = (view, loan)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
