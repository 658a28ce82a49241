"""Fast export: labels are decided on the network's grid, and the label map is resampled instead of the logits.

As exact where the network's grid is the file's, coarser at borders where it is coarser; its cost hardly grows with the
number of classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.inference.case_export import channel_values, in_box, label_type, original_shape
from segplan.inference.winners import decide, nobody
from segplan.preprocessing import CaseProperties, PreprocessingPlan, resample_labels


class FastExport:
    """Takes the slabs of a case in order; `labels` is whole when all have been added.

    Args:
        properties: what preprocessing did to the case.
        plan: the plan it was preprocessed by.
        labels: what the K channels stand for.
    """

    entropy = None

    def __init__(self, properties: CaseProperties, plan: PreprocessingPlan, labels: Labels) -> None:
        self._properties, self._plan, self._meaning = properties, plan, labels
        values = channel_values(labels)
        # Numbers of channels, not values: they fit the smallest type whatever the dataset calls its labels.
        self._painted, self._values = labels.has_regions, np.concatenate([np.zeros(1, dtype=values.dtype), values])
        narrow = len(self._values) <= np.iinfo(np.int8).max
        self._grid = np.zeros(properties.shape, dtype=np.int8 if narrow else np.int16)
        self._start = 0

    def add(self, logits: torch.Tensor) -> None:
        """Take the next slab, (K, depth, Y, X)."""
        stop = self._start + logits.shape[1]
        numbers, best = nobody(logits.shape[1:], logits.device, painted=self._painted)
        decide(logits, 1, (numbers, best), painted=self._painted)
        self._grid[self._start : stop] = numbers.cpu().numpy()
        self._start = stop

    @property
    def labels(self) -> NDArray[np.unsignedinteger]:
        """(Z, Y, X) in the frame of the file."""
        properties = self._properties
        own = [properties.spacing[axis] for axis in properties.transpose]
        target = self._plan.target_spacing(properties.spacing)
        numbers = resample_labels(self._grid, properties.shape_after_cropping, target, own)
        kind = label_type(self._meaning, int(self._values.max()))
        values: NDArray[np.unsignedinteger] = self._values.astype(kind)
        result: NDArray[np.unsignedinteger] = np.zeros(original_shape(properties), dtype=kind)
        for plane, source in zip(in_box(result, properties), numbers, strict=True):
            plane[...] = values[source]
        return result
