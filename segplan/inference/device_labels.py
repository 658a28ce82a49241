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

_WORK_BYTES = 1 << 28
_ARRAYS = 4  # of a class and plane, at the output's size: two gathered ones, their mixture, and what is compared


class DeviceLabels:
    """Resamples slabs of logits on their device, and keeps of each voxel only which channel wins.

    The working memory is 256 MiB, whatever the number of classes, or what one class of one plane takes.

    Args:
        tables: from the network's grid to the planes wanted, per axis.
        device: where the slabs are.
        painted: False: the channel with the largest logit wins, the first of equal ones. True (regions): the last one
            with a positive logit.
    """

    def __init__(self, tables: Tables, device: torch.device, *, painted: bool) -> None:
        self.device, self._along, self._painted = device, tables[0], painted
        self._rows, self._columns = (_on(table, device) for table in tables[1:])
        self.carried: Tensor | None = None
        """The last plane of the slab before (K, 1, Y, X), for whoever goes on elsewhere; None before the first."""

    def add(self, slab: Tensor, start: int, ready: range) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Make the output planes `ready`, which need no plane beyond the slab and the last one of the slab before.

        Args:
            slab: (K, depth, Y, X).
            start: its first plane.
            ready: output planes, in order.

        Yields:
            The first plane of some, and for these 1 + the winning channel of each voxel (planes, Y, X) on the host; 0
            where no region is.

        Raises:
            RuntimeError: the device's memory is full (`is_out_of_memory`).
        """
        first = start if self.carried is None else start - 1
        planes = slab if self.carried is None else torch.cat([self.carried, slab], dim=1)
        size = 4 * _ARRAYS * len(self._rows[2]) * len(self._columns[2])
        at_once = max(1, _WORK_BYTES // (size * len(slab)))
        channels = max(1, _WORK_BYTES // (size * at_once))
        for low in range(ready.start, ready.stop, at_once):
            high = min(low + at_once, ready.stop)
            tables = (_on(self._along.part(low, high), self.device, first), self._rows, self._columns)
            yield low, self._winners(planes, tables, channels).cpu().numpy()
        self.carried = slab[:, -1:].clone()

    def _winners(self, planes: Tensor, tables: "tuple[_DeviceTable, ...]", channels: int) -> Tensor:
        """1 + the winning channel, or 0, (planes, Y, X) int32, looking at `channels` classes at a time."""
        shape = [len(shares) for _, _, shares in tables]
        numbers = torch.zeros(shape, dtype=torch.int32, device=planes.device)
        best = torch.full(shape, 0.0 if self._painted else -torch.inf, device=planes.device)
        for first in range(0, len(planes), channels):
            part = planes[first : first + channels].float()
            for axis, (low, high, shares) in enumerate(tables, start=1):
                below = part.index_select(axis, low)
                above = part.index_select(axis, high).sub_(below)
                part = above.mul_(shares.view(-1, *(1,) * (3 - axis))).add_(below)
                del below
            for number, logits in enumerate(part, start=first + 1):
                wins = logits > best
                numbers.masked_fill_(wins, number)
                if not self._painted:
                    best = torch.maximum(best, logits)
        return numbers


_DeviceTable = tuple[Tensor, Tensor, Tensor]


def _on(table: AxisTable, device: torch.device, first: int = 0) -> _DeviceTable:
    """Lower and upper node, counted from node `first`, and the share of the upper one, on a device."""
    low, high = torch.from_numpy(table.nodes - first).to(device)
    return low, high, torch.from_numpy(table.shares).to(device)
