"""A case store of small random cases whose voxels carry their own coordinates."""

from pathlib import Path

import numpy as np

from segplan.dataset import Labels
from segplan.preprocessing import CaseProperties, CaseStore, PreprocessedCase, foreground_locations

LABELS = Labels.from_json({"labels": {"background": 0, "organ": 1, "lesion": 2}})


def write_store(folder: Path, shapes: list[tuple[int, int, int]], labels: Labels = LABELS, seed: int = 0) -> CaseStore:
    """Cases case0, case1, ... of the given shapes with 2 channels; label 2 is one voxel."""
    store = CaseStore(folder)
    for number, shape in enumerate(shapes):
        rng = np.random.default_rng([seed, number])
        image = rng.standard_normal((2, *shape)).astype(np.float32)
        label_map = np.zeros(shape, np.int16)
        label_map[tuple(slice(size // 4, size // 2 + 1) for size in shape)] = 1
        label_map[tuple(size // 2 for size in shape)] = 2
        label_map[:, 0, 0] = -1
        box = tuple((0, size) for size in shape)
        properties = CaseProperties((1.0, 1.0, 1.0), shape, box, shape, shape, (0, 1, 2), {})
        case = PreprocessedCase(image, label_map, properties)
        store.write(f"case{number}", case, foreground_locations(label_map, labels), None, "hash")
    return store
