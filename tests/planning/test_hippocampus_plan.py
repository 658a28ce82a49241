"""The plan of a public dataset, from its images: nnU-Net 2.8.1 plans 3D 40×56×40 batch 9 and 2D 56×40 batch 366."""

import os
from pathlib import Path

import numpy as np
import pytest

from segplan.dataset import open_dataset
from segplan.imaging import nonzero_box, read_image, read_label_map
from segplan.planning import PRESETS, combine, fingerprint_case, plan_dataset


@pytest.mark.skipif("SEGPLAN_TEST_DATA" not in os.environ, reason="SEGPLAN_TEST_DATA does not name a data folder")
def test_hippocampus_is_planned_as_by_nnunet() -> None:
    dataset = open_dataset(Path(os.environ["SEGPLAN_TEST_DATA"]) / "Dataset004_Hippocampus")
    records, pooled = [], []
    for case in dataset.cases:
        image = read_image(case.images)
        foreground = read_label_map(case.label).array[0] > 0
        box = nonzero_box(image.array)[1]
        records.append(fingerprint_case(image.array, image.spacing, foreground, box, case.identifier))
        pooled.append(image.array[0][foreground].astype(np.float64))
    fingerprint = combine(records)
    mean = np.mean([voxels.mean() for voxels in pooled])
    assert fingerprint.intensities[0].mean == pytest.approx(mean, rel=1e-6)
    # Every case drawn equally often, as nnU-Net draws: sampling error only.
    rng = np.random.default_rng(0)
    sample = np.concatenate([rng.choice(voxels, 4000) for voxels in pooled])
    found = [fingerprint.intensities[0].percentile_00_5, fingerprint.intensities[0].median]
    assert found == pytest.approx(np.percentile(sample, (0.5, 50)).tolist(), rel=0.03)
    plan = plan_dataset(fingerprint, dataset.description, PRESETS["default"])
    planned = {name: (entry.patch_size, entry.batch_size) for name, entry in plan.configurations.items()}
    assert planned == {"2d": ((56, 40), 366), "3d_fullres": ((40, 56, 40), 9)}
