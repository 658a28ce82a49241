"""Which differing voxels of two resampled label maps are ties: the two best weights are equal but for rounding."""

import json
from pathlib import Path

import numpy as np

from segplan.dataset import scan_dataset
from segplan.imaging import read_label_map
from segplan.preprocessing import CaseProperties, separate_axis
from segplan.preprocessing.resample import _linear_table, _nearest_slice

TIE = 1e-6


def near_ties(dataset: Path, store: Path, case: str, places: list[list[int]]) -> int:
    """How many of the differing voxels are ties.

    Args:
        dataset: the raw dataset.
        store: segplan's folder of the preprocessed case.
        case: its name.
        places: per differing voxel z, y, x on the network's grid, nnU-Net's label and segplan's label.
    """
    found, _ = scan_dataset(dataset)
    (raw,) = (one for one in found.cases if one.identifier == case)
    if raw.label is None:
        return 0
    properties = CaseProperties.from_json(json.loads((store / f"{case}.json").read_text())["properties"])
    transposed = read_label_map(raw.label).array[0].transpose(properties.transpose)
    labels = transposed[tuple(slice(low, high) for low, high in properties.box)]
    current = [properties.spacing[axis] for axis in properties.transpose]
    new = [n / m * a for n, m, a in zip(labels.shape, properties.shape, current, strict=True)]
    separate = separate_axis(current, new)
    return sum(_is_tie(labels, properties.shape, separate, place) for place in places)


def _is_tie(labels: np.ndarray, shape: tuple[int, ...], separate: int | None, place: list[int]) -> bool:
    corners: list[list[tuple[int, float]]] = []
    for axis in range(3):
        size = labels.shape[axis]
        if axis == separate:
            corners.append([(int(_nearest_slice(size, shape[axis])[place[axis]]), 1.0)])
            continue
        lower, shares = _linear_table(size, shape[axis])
        low, (first, second) = int(lower[place[axis]]), shares[place[axis]]
        corners.append([(low, float(first)), (min(low + 1, size - 1), float(second))])
    weights: dict[int, float] = {}
    for z, first in corners[0]:
        for y, second in corners[1]:
            for x, third in corners[2]:
                label = int(labels[z, y, x])
                weights[label] = weights.get(label, 0.0) + first * second * third
    ordered = sorted(weights.values(), reverse=True)
    return len(ordered) > 1 and ordered[0] - ordered[1] < TIE
