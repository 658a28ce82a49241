"""From slabs of logits on the network's grid to labels, probabilities and entropy in the frame of the file.

Logits are resampled linearly (nnU-Net 2.8.1: per axis, nearest along an axis of thick slices), turned into labels,
put back into the crop box and transposed back, plane by plane as slabs arrive. No class is ever held at the full
resolution but in boxes of a few planes, or of a few rows where a plane of all classes is large itself.

Labels alone are made where the slabs are, on an accelerator too, if it has room; probabilities on the host.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.inference.axis_tables import AxisTable, tables_of
from segplan.inference.device_labels import DeviceLabels
from segplan.inference.forward import is_out_of_memory, release
from segplan.inference.kernels import AS_THEY_ARE, SIGMOID, SOFTMAX, label_plane, probability_rows
from segplan.inference.probabilities import ProbabilityWriter
from segplan.inference.window import HOST
from segplan.preprocessing import CaseProperties, PreprocessingPlan

S = TypeVar("S", bound=np.generic)

_BOX_BYTES = 1 << 26
_NO_ENTROPY = np.empty((0, 0), dtype=np.float32)


class CaseExport:
    """Takes the slabs of a case in order; `labels` and `entropy` are whole when all have been added.

    Args:
        properties: what preprocessing did to the case.
        plan: the plan it was preprocessed by.
        labels: what the K channels stand for.
        entropy: make a map of it, too.
        probabilities: receives these; see `original_box` for the part that it must expect.
        are_probabilities: the slabs hold these already (`Tiling.probabilities`).
        device: where labels are made of slabs that are there; None: on the host.
        notes: receives a line for the user where the device had no room.
    """

    def __init__(
        self,
        properties: CaseProperties,
        plan: PreprocessingPlan,
        labels: Labels,
        *,
        entropy: bool = False,
        probabilities: ProbabilityWriter | None = None,
        are_probabilities: bool = False,
        device: torch.device | None = None,
        notes: list[str] | None = None,
    ) -> None:
        self._properties, self._tables, self._writer = properties, tables_of(properties, plan), probabilities
        self._values, self._painted = channel_values(labels), labels.has_regions
        self._rule = AS_THEY_ARE if are_probabilities else SIGMOID if labels.has_regions else SOFTMAX
        shape = original_shape(properties)
        self.labels = np.zeros(shape, dtype=label_type(labels, int(self._values.max())))
        self.entropy = np.zeros(shape, dtype=np.float32) if entropy else None
        self._carried, self._start = np.empty((0, 0, 0, 0), dtype=np.float32), 0
        self._notes = [] if notes is None else notes
        self._painting = np.concatenate([np.zeros(1, self.labels.dtype), self._values.astype(self.labels.dtype)])
        on_host = device == HOST or entropy or probabilities is not None
        self._device = None if on_host else device
        self._on_device = DeviceLabels(self._tables, painted=self._painted)

    def add(self, logits: NDArray[np.float32] | torch.Tensor) -> None:
        """Take the next slab, (K, depth, Y, X)."""
        depth = logits.shape[1]
        if not depth:
            return
        ready = self._tables[0].ready(self._start, self._start + depth)
        if not (isinstance(logits, torch.Tensor) and self._make_on_device(logits, ready)):
            self._make_on_host(as_array(logits), ready)
        self._start += depth

    def _make_on_device(self, slab: torch.Tensor, ready: range) -> bool:
        """Make labels where the slab is; False if that is not wanted, or has no room there."""
        if self._device is None or slab.device.type != self._device.type:
            return False
        target = in_box(self.labels, self._properties)
        try:
            for first, numbers in self._on_device.add(slab, self._start, ready):
                target[first : first + len(numbers)] = self._painting[numbers]
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback keeps the failed attempt's tensors alive.
        release(slab.device)
        self._notes.append(f"no room on {self._device} to resample labels: that is done on the host")
        return False

    def _make_on_host(self, slab: NDArray[np.float32], ready: range) -> None:
        if self._device is not None:  # it is full, or the sums over tiles have left it: that lasts for this case
            self._device, last = None, self._on_device.carried
            self._carried = self._carried if last is None else as_array(last)
        source = _Source(self._carried, slab, self._start, self._tables[0])
        target = in_box(self.labels, self._properties)
        rows, columns = self._tables[1:]

        def make_labels(z: int) -> None:
            plane = np.empty(target.shape[1:], dtype=np.int32)
            label_plane(*source.of(z), _pair(rows), _pair(columns), (self._values, self._painted), plane)
            target[z] = plane

        _in_threads(make_labels, ready)
        if self._writer is not None or self.entropy is not None:
            for planes, band in _boxes(len(slab), ready, target.shape[1:]):
                self._make_probabilities(source, planes, band)
        # The next slab's first output planes lie between this one's last plane and its own first.
        self._carried = slab[:, -1:].copy()

    def _make_probabilities(self, source: "_Source", planes: range, band: range) -> None:
        rows, columns = self._tables[1].part(band.start, band.stop), self._tables[2]
        block = np.empty((len(source.slab), len(planes), len(band), columns.shares.size), dtype=np.float32)
        entropy = None if self.entropy is None else in_box(self.entropy, self._properties)

        def make(z: int) -> None:
            where = block[:, z - planes.start]
            target = _NO_ENTROPY if entropy is None else np.empty(where.shape[1:], dtype=np.float32)
            probability_rows(*source.of(z), _pair(rows), _pair(columns), self._rule, where, target)
            if entropy is not None:
                entropy[z, band.start : band.stop] = target

        _in_threads(make, planes)
        if self._writer is not None:
            own = self._properties.transpose
            start = [0, 0, 0]
            first = (planes.start, band.start, 0)
            for axis, (low, _), offset in zip(own, self._properties.box, first, strict=True):
                start[axis] = low + offset
            self._writer.write_box(start, block.transpose(0, *(1 + own.index(axis) for axis in range(3))))


def channel_values(labels: Labels) -> NDArray[np.int32]:
    """The label that each channel of the logits stands for; for regions the one it paints."""
    order = labels.regions_class_order if labels.has_regions else labels.all_labels
    return np.array(order, dtype=np.int32)


def label_type(labels: Labels, highest: int) -> type[np.unsignedinteger]:
    """nnU-Net 2.8.1's: uint8, or uint16 from 255 foreground labels on; wider where the values need it."""
    if highest > np.iinfo(np.uint16).max:
        return np.uint32
    return np.uint16 if len(labels.foreground_labels) >= 255 or highest > np.iinfo(np.uint8).max else np.uint8


def original_shape(properties: CaseProperties) -> tuple[int, int, int]:
    """(Z, Y, X) of the file."""
    shape = [0, 0, 0]
    for size, axis in zip(properties.shape_before_cropping, properties.transpose, strict=True):
        shape[axis] = size
    z, y, x = shape
    return (z, y, x)


def original_box(properties: CaseProperties) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The crop box in the file's axis order."""
    z, y, x = (properties.box[properties.transpose.index(axis)] for axis in range(3))
    return (z, y, x)


def in_box(array: NDArray[S], properties: CaseProperties) -> NDArray[S]:
    """The view of an array of the original frame that is the crop box in the network's axis order."""
    return array.transpose(properties.transpose)[tuple(slice(low, high) for low, high in properties.box)]


def as_array(logits: NDArray[np.float32] | torch.Tensor) -> NDArray[np.float32]:
    """The values on the host, float32, C order."""
    array = logits.float().cpu().numpy() if isinstance(logits, torch.Tensor) else logits
    return np.ascontiguousarray(array, dtype=np.float32)


@dataclass(frozen=True)
class _Source:
    """A slab of logits and the last plane of the slab before."""

    carried: NDArray[np.float32]
    slab: NDArray[np.float32]
    start: int
    along: AxisTable

    def of(self, z: int) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], tuple[int, int], Any]:
        """The two slabs with the input planes below and above the output plane `z`, their places, and the share."""
        low, high = (int(index) - self.start for index in self.along.nodes[:, z])
        share = self.along.shares[z]
        return (
            ((self.slab, self.slab), (low, high), share) if low >= 0 else ((self.carried, self.slab), (0, high), share)
        )


def _pair(table: AxisTable) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return table.nodes, table.shares


def _boxes(channels: int, ready: range, plane: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Planes and rows of boxes that cover the planes `ready`, none of more than `_BOX_BYTES` over all channels."""
    row_bytes = 4 * channels * plane[1]
    rows = min(plane[0], max(1, _BOX_BYTES // row_bytes))
    depth = max(1, _BOX_BYTES // (row_bytes * plane[0]))
    for first in range(ready.start, ready.stop, depth):
        for top in range(0, plane[0], rows):
            yield range(first, min(first + depth, ready.stop)), range(top, min(top + rows, plane[0]))


def _in_threads(work: Callable[[int], None], items: Sequence[int]) -> None:
    # The kernels hold no interpreter lock. numba's own threads would not survive several callers at once.
    count = min(torch.get_num_threads(), len(items))
    if count <= 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(count) as executor:
        for _ in executor.map(work, items):
            pass
