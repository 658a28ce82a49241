"""Whole-case forms of the export: from logits to labels or probabilities in the frame of the file.

`CaseExport` does the work slab by slab; what is here is for logits at hand, and for small cases.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.inference.axis_tables import tables_of
from segplan.inference.case_export import CaseExport, as_array, channel_values, in_box, original_shape
from segplan.preprocessing import CaseProperties, PreprocessingPlan

__all__ = ["channel_values", "logits_to_labels", "logits_to_probabilities", "slabs_to_labels"]


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
    export = CaseExport(properties, plan, labels)
    for slab in slabs:
        export.add(slab)
    return export.labels


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
    resolution in memory; `segment_case` writes them to a store without that.
    """
    full = as_array(logits)
    for axis, table in enumerate(tables_of(properties, plan), start=1):
        low, high = full.take(table.nodes[0], axis=axis), full.take(table.nodes[1], axis=axis)
        full = low + table.shares.reshape(-1, *(1,) * (3 - axis)) * (high - low)
    tensor = torch.from_numpy(full)
    if not are_probabilities:
        tensor = tensor.sigmoid() if labels.has_regions else tensor.softmax(dim=0)
    probabilities = tensor.numpy()
    result = np.zeros((len(full), *original_shape(properties)), dtype=np.float32)
    if not labels.has_regions:
        result[0] = 1
    for channel, target in zip(probabilities, result, strict=True):
        in_box(target, properties)[...] = channel
    return result
