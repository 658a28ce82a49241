"""From logits on the network's grid to labels or probabilities in the frame of the file.

Logits are resampled linearly (nnU-Net 2.8.1: per axis, nearest along an axis of thick slices), turned into labels,
put back into the crop box and transposed back. Labels are made plane by plane, as slabs of logits arrive.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.inference.kernels import label_plane
from segplan.preprocessing import CaseProperties, PreprocessingPlan, separate_axis

S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class AxisTable:
    """How each output position of an axis is mixed from two input positions.

    Args:
        nodes: (2, n) lower and upper input index.
        shares: (n,) weight of the upper one.
    """

    nodes: NDArray[np.int64]
    shares: NDArray[np.float32]


def axis_tables(
    shape_in: Sequence[int], shape_out: Sequence[int], current: Sequence[float], new: Sequence[float]
) -> tuple[AxisTable, AxisTable, AxisTable]:
    """The tables of the three axes for resampling logits from spacing `current` to `new` (mm, network frame)."""
    separate = separate_axis(current, new)
    z, y, x = (_axis_table(shape_in[axis], shape_out[axis], axis == separate) for axis in range(3))
    return z, y, x


def logits_to_labels(
    logits: NDArray[np.float32] | torch.Tensor, properties: CaseProperties, plan: PreprocessingPlan, labels: Labels
) -> NDArray[np.unsignedinteger]:
    """Labels (Z, Y, X) in the original frame from all logits (K, Z, Y, X) of a case."""
    return slabs_to_labels([logits], properties, plan, labels)


def slabs_to_labels(
    slabs: Iterable[NDArray[np.float32] | torch.Tensor],
    properties: CaseProperties,
    plan: PreprocessingPlan,
    labels: Labels,
) -> NDArray[np.unsignedinteger]:
    """Labels in the original frame from slabs of logits; no class is ever held at the full resolution.

    Args:
        slabs: (K, depth, Y, X) each, in order along the network frame's first axis, all of it once.
        properties: what preprocessing did to the case.
        plan: the plan it was preprocessed by.
        labels: what the K channels stand for.

    Returns:
        (Z, Y, X) in the file's axis order, with the label values of the dataset's files; 0 outside the crop box. uint8,
        or from 255 foreground labels on uint16, or whatever wider type the values need.
    """
    values = channel_values(labels)
    result = np.zeros(_original_shape(properties), dtype=_label_type(labels, int(values.max())))
    tables = _tables(properties, plan)
    target = _boxed(result, properties)
    with _threads() as executor:
        carried, start = np.empty((0, 0, 0, 0), dtype=np.float32), 0
        for part in slabs:
            slab = _as_array(part)
            planes = _Planes(carried, slab, start, tables, values, labels.has_regions, target)
            ready = [z for z in range(target.shape[0]) if start <= tables[0].nodes[1, z] < start + slab.shape[1]]
            _run(planes, ready, executor)
            if slab.shape[1]:
                carried, start = slab[:, -1:].copy(), start + slab.shape[1]
    return result


def logits_to_probabilities(
    logits: NDArray[np.float32] | torch.Tensor,
    properties: CaseProperties,
    plan: PreprocessingPlan,
    labels: Labels,
    *,
    are_probabilities: bool = False,
) -> NDArray[np.float32]:
    """Probabilities (K, Z, Y, X) in the original frame: softmax, or a sigmoid for regions.

    With `are_probabilities` the values are that already (`Tiling.probabilities`), and are only resampled.

    Outside the crop box the background is certain (labels), or no region is (regions). Needs all classes at the full
    resolution in memory.
    """
    full = _as_array(logits)
    for axis, table in enumerate(_tables(properties, plan), start=1):
        low, high = full.take(table.nodes[0], axis=axis), full.take(table.nodes[1], axis=axis)
        full = low + table.shares.reshape(-1, *(1,) * (3 - axis)) * (high - low)
    tensor = torch.from_numpy(full)
    if not are_probabilities:
        tensor = tensor.sigmoid() if labels.has_regions else tensor.softmax(dim=0)
    probabilities = tensor.numpy()
    result = np.zeros((len(full), *_original_shape(properties)), dtype=np.float32)
    if not labels.has_regions:
        result[0] = 1
    for channel, target in zip(probabilities, result, strict=True):
        _boxed(target, properties)[...] = channel
    return result


def channel_values(labels: Labels) -> NDArray[np.int32]:
    """The label that each channel of the logits stands for; for regions the one it paints."""
    order = labels.regions_class_order if labels.has_regions else labels.all_labels
    return np.array(order, dtype=np.int32)


def _label_type(labels: Labels, highest: int) -> type[np.unsignedinteger]:
    if highest > np.iinfo(np.uint16).max:
        return np.uint32
    return np.uint16 if len(labels.foreground_labels) >= 255 or highest > np.iinfo(np.uint8).max else np.uint8


@dataclass(frozen=True)
class _Planes:
    """Makes output planes from a slab of logits and the last plane of the slab before."""

    carried: NDArray[np.float32]
    slab: NDArray[np.float32]
    start: int
    tables: tuple[AxisTable, AxisTable, AxisTable]
    values: NDArray[np.int32]
    painted: bool
    target: NDArray[np.unsignedinteger]

    def __call__(self, z: int) -> None:
        along, rows, columns = self.tables
        low, high = (int(index) - self.start for index in along.nodes[:, z])
        slabs, planes = ((self.slab, self.slab), (low, high)) if low >= 0 else ((self.carried, self.slab), (0, high))
        plane = np.empty(self.target.shape[1:], dtype=np.int32)
        in_plane = ((rows.nodes, rows.shares), (columns.nodes, columns.shares))
        label_plane(slabs, planes, along.shares[z], *in_plane, (self.values, self.painted), plane)
        self.target[z] = plane


def _threads() -> AbstractContextManager[Executor | None]:
    # The kernel holds no interpreter lock. numba's own threads would not survive several callers at once.
    count = torch.get_num_threads()
    return ThreadPoolExecutor(count) if count > 1 else nullcontext()


def _run(planes: _Planes, ready: Sequence[int], executor: Executor | None) -> None:
    if executor is None:
        for z in ready:
            planes(z)
    else:
        list(executor.map(planes, ready))


def _as_array(logits: NDArray[np.float32] | torch.Tensor) -> NDArray[np.float32]:
    array = logits.float().cpu().numpy() if isinstance(logits, torch.Tensor) else logits
    return np.ascontiguousarray(array, dtype=np.float32)


def _original_shape(properties: CaseProperties) -> tuple[int, ...]:
    shape = [0, 0, 0]
    for size, axis in zip(properties.shape_before_cropping, properties.transpose, strict=True):
        shape[axis] = size
    return tuple(shape)


def _boxed(array: NDArray[S], properties: CaseProperties) -> NDArray[S]:
    """The view of an array of the original frame that is the crop box in the network's axis order."""
    return array.transpose(properties.transpose)[tuple(slice(low, high) for low, high in properties.box)]


def _tables(properties: CaseProperties, plan: PreprocessingPlan) -> tuple[AxisTable, AxisTable, AxisTable]:
    own = [properties.spacing[axis] for axis in properties.transpose]
    return axis_tables(properties.shape, properties.shape_after_cropping, plan.target_spacing(properties.spacing), own)


def _axis_table(size_in: int, size_out: int, nearest: bool) -> AxisTable:
    centres = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    if nearest and size_in != size_out:
        index = np.floor(size_in / size_out * (np.arange(size_out) + 0.5)).astype(np.int64).clip(0, size_in - 1)
        return AxisTable(np.stack([index, index]), np.zeros(size_out, dtype=np.float32))
    inside = centres.clip(0, size_in - 1)
    lower = np.floor(inside).astype(np.int64)
    upper = np.minimum(lower + 1, size_in - 1)
    return AxisTable(np.stack([lower, upper]), (inside - lower).astype(np.float32))
