"""How logits on the network's grid are mixed into voxels of the image's own grid, axis by axis."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segplan.preprocessing import CaseProperties, PreprocessingPlan, separate_axis


@dataclass(frozen=True)
class AxisTable:
    """How each output position of an axis is mixed from two input positions.

    Args:
        nodes: (2, n) lower and upper input index.
        shares: (n,) weight of the upper one.
    """

    nodes: NDArray[np.int64]
    shares: NDArray[np.float32]

    def ready(self, start: int, stop: int) -> range:
        """The output positions that need input position `start` or later ones, but none from `stop` on."""
        low, high = np.searchsorted(self.nodes[1], [start, stop])
        return range(int(low), int(high))

    def part(self, start: int, stop: int) -> "AxisTable":
        """The table of the output positions from `start` to before `stop`."""
        return AxisTable(np.ascontiguousarray(self.nodes[:, start:stop]), self.shares[start:stop])


Tables = tuple[AxisTable, AxisTable, AxisTable]


def axis_tables(
    shape_in: Sequence[int], shape_out: Sequence[int], current: Sequence[float], new: Sequence[float]
) -> Tables:
    """The tables of the three axes for resampling logits from spacing `current` to `new` (mm, network frame)."""
    separate = separate_axis(current, new)
    z, y, x = (_axis_table(shape_in[axis], shape_out[axis], axis == separate) for axis in range(3))
    return z, y, x


def tables_of(properties: CaseProperties, plan: PreprocessingPlan) -> Tables:
    """The tables from the network's grid to the crop box of a case, in the network's axis order."""
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
