"""Draw cases of a run: label maps from its validation folders, images and references from the case store."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.errors import SegplanError
from segplan.imaging import Geometry, read_label_map, split_ending
from segplan.preprocessing import CaseStore, StoredCase
from segplan.reporting.case_shots import CasePicture, draw_shots
from segplan.reporting.planes import grey_window
from segplan.reporting.report_data import CaseScore, Illustrated

LABELS_ENDING = "_labels.npz"
"""Of label maps written where no image format could be."""
_MOST_WINDOW_VOXELS = 1 << 21


def draw_cases(
    folder_of: Callable[[CaseScore], Path],
    cases: Sequence[CaseScore],
    chosen: Sequence[tuple[str, str]],
    store: CaseStore,
    labels: Labels,
) -> list[Illustrated]:
    """Pictures of the chosen cases, in their order; those whose label map or image is gone are left out.

    Args:
        folder_of: where a case's label map stands.
        cases: all of them.
        chosen: (FOLD/CASE, why).
        store: the images.
        labels: what the values of the label maps mean.
    """
    by_name = {f"{case.fold}/{case.identifier}": case for case in cases}
    drawn = []
    for name, reason in chosen:
        case = by_name[name]
        stored = open_case(store, case.identifier)
        prediction = _prediction(folder_of(case), case.identifier)
        if stored is None or prediction is None:
            continue
        reference = stored.reference()
        cut, window = _image_of(stored, reference.shape)
        geometry = Geometry.from_json(stored.properties.geometry)
        spacing = stored.properties.spacing
        shots = draw_shots(CasePicture(cut, window, reference, prediction, geometry, spacing, labels))
        drawn.append(Illustrated(case, reason, shots))
    return drawn


def open_case(store: CaseStore | None, identifier: str) -> StoredCase | None:
    """The case of a store; None if there is no store, or it lacks the case."""
    if store is None:
        return None
    try:
        return store.open(identifier)
    except SegplanError:
        return None


def _prediction(folder: Path, identifier: str) -> NDArray[np.integer[Any]] | None:
    stored = folder / f"{identifier}{LABELS_ENDING}"
    if stored.is_file():
        with np.load(stored, allow_pickle=False) as archive:
            return np.asarray(archive["labels"])
    for path in sorted(folder.glob(f"{identifier}.*")):
        if path.suffix not in (".npz", ".json") and split_ending(path.name)[0] == identifier:
            labels: NDArray[np.integer[Any]] = read_label_map(path).array
            return labels[0] if labels.ndim == 4 else labels
    return None


def _image_of(
    case: StoredCase, shape: Sequence[int]
) -> tuple[Callable[[int, int], NDArray[np.float32]], tuple[float, float]]:
    """What cuts slices of the stored image on the original grid, and the grey window; nothing is copied whole.

    What preprocessing cropped away is shown black.
    """
    image, labels = case.image, case.labels
    step = max(1, math.ceil((image[0].size / _MOST_WINDOW_VOXELS) ** (1 / 3)))
    coarse = (slice(None, None, step),) * 3
    flat_colour = len(image) == 3 and Geometry.from_json(case.properties.geometry).dimension == 2
    shown = image if flat_colour else image[:1]
    low, high = grey_window(np.asarray(shown[0][coarse]), np.asarray(labels[coarse]), 1.0)
    properties = case.properties
    tables = []
    for axis in range(3):
        place = properties.transpose.index(axis)
        first, last = properties.box[place]
        inside = np.arange(shape[axis]) - first
        scaled = ((inside + 0.5) * properties.shape[place] / (last - first)).astype(np.int64)
        tables.append(
            np.where((inside >= 0) & (inside < last - first), scaled.clip(0, properties.shape[place] - 1), -1)
        )

    def cut(axis: int, index: int) -> NDArray[np.float32]:
        rest = [other for other in range(3) if other != axis]
        result = np.full((len(shown), *(shape[other] for other in rest)), low, np.float32)
        here = int(tables[axis][index])
        if here < 0:
            return result
        # On the network's axes, then turned to the original ones.
        stored_axis = properties.transpose.index(axis)
        plane = np.asarray(np.take(shown, here, stored_axis + 1))
        stored_rest = [properties.transpose[place] for place in range(3) if place != stored_axis]
        plane = plane if stored_rest == rest else plane.swapaxes(1, 2)
        rows, columns = tables[rest[0]], tables[rest[1]]
        known = np.ix_(rows >= 0, columns >= 0)
        result[:, known[0], known[1]] = plane[:, rows[rows >= 0][:, None], columns[columns >= 0][None]]
        return result

    return cut, (low, high)
