"""Planes of labels made where the logits are: what `kernels.label_plane` does on the host, in torch operations.

An accelerator then hands over one number a voxel in place of one a class. It has not run on a GPU yet; on CPU tensors
it is tested against the compiled kernel.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segplan.inference.axis_tables import AxisTable, Tables
from segplan.inference.winners import decide, nobody

_WORK_BYTES = 1 << 28
_ARRAYS = 5  # of a class and plane: a mixture and the two gathered from it, their conversion, what is compared


class DeviceLabels:
    """Resamples slabs of logits on their device, and keeps of each voxel only which channel wins.

    Beside the slabs and their last plane it takes 256 MiB, whatever the number of classes, or what one class of one
    plane takes.

    Args:
        tables: from the network's grid to the planes wanted, per axis.
        painted: False: the channel with the largest logit wins, the first of equal ones. True (regions): the last one
            with a positive logit.
    """

    def __init__(self, tables: Tables, *, painted: bool) -> None:
        self._along, self._in_plane, self._painted = tables[0], tables[1:], painted
        self._on_device: list[_DeviceTable] = []
        self.carried: Tensor | None = None
        """The last plane of the slab before (K, 1, Y, X), for whoever goes on elsewhere; None before the first."""

    def add(self, slab: Tensor, start: int, ready: range) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Make the output planes `ready`, which need no plane beyond the slab and the last one of the slab before.

        Args:
            slab: (K, depth, Y, X); all of a case on the same device.
            start: its first plane.
            ready: output planes, in order.

        Yields:
            The first plane of some, and for these 1 + the winning channel of each voxel (planes, Y, X) on the host; 0
            where no region is.

        Raises:
            RuntimeError: the device's memory is full (`is_out_of_memory`).
        """
        if not self._on_device:  # by the slab, not by name: "cuda" is another device in another thread
            self._on_device = [_on(table, slab.device) for table in self._in_plane]
        size = 4 * _ARRAYS
        for (_, _, shares), length in zip(self._on_device, slab.shape[2:], strict=True):
            size *= max(len(shares), length)
        at_once = max(1, _WORK_BYTES // (size * len(slab)))
        channels = max(1, _WORK_BYTES // (size * at_once))
        for low in range(ready.start, ready.stop, at_once):
            along = self._along.part(low, min(low + at_once, ready.stop))
            yield low, self._winners(slab, start, along, channels).cpu().numpy()
        self.carried = slab[:, -1:].clone()

    def _winners(self, slab: Tensor, start: int, along: AxisTable, channels: int) -> Tensor:
        """1 + the winning channel, or 0, (planes, Y, X) int32, looking at `channels` classes at a time."""
        shape = [len(along.shares), *(len(shares) for _, _, shares in self._on_device)]
        so_far = nobody(shape, slab.device, painted=self._painted)
        shares = torch.from_numpy(along.shares).to(slab.device)
        for first in range(0, len(slab), channels):
            some = slice(first, first + channels)
            below, above = (self._planes(slab, some, nodes - start) for nodes in along.nodes)
            part = _mixed(below, above, shares, 1)
            del below, above
            for axis, (low, high, own_shares) in enumerate(self._on_device, start=2):
                part = _mixed(part.index_select(axis, low), part.index_select(axis, high), own_shares, axis)
            decide(part, first + 1, so_far, painted=self._painted)
            del part
        return so_far[0]

    def _planes(self, slab: Tensor, channels: slice, indices: NDArray[np.int64]) -> Tensor:
        """Planes of some channels as a new tensor (channels, planes, Y, X); index -1 is the slab's before."""
        before = int(np.count_nonzero(indices < 0))  # indices ascend
        own = slab[channels].index_select(1, torch.from_numpy(indices[before:]).to(slab.device)).float()
        if not before or self.carried is None:
            return own
        return torch.cat([self.carried[channels].float().expand(-1, before, -1, -1), own], dim=1)


_DeviceTable = tuple[Tensor, Tensor, Tensor]


def _on(table: AxisTable, device: torch.device) -> _DeviceTable:
    """Lower and upper node, and the share of the upper one, on a device."""
    low, high = torch.from_numpy(table.nodes).to(device)
    return low, high, torch.from_numpy(table.shares).to(device)


def _mixed(below: Tensor, above: Tensor, shares: Tensor, axis: int) -> Tensor:
    """Mix (channels, planes, Y, X) linearly, with a share of `above` for each position of an axis; overwrites both."""
    return above.sub_(below).mul_(shares.view(-1, *(1,) * (3 - axis))).add_(below)
