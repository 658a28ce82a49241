"""The rules of 2018 give the plans that were published with them, and what their text says elsewhere."""

from dataclasses import replace

import pytest
from plan_fixtures import description_of, fixture_inputs

from segplan.planning import PRESETS, ConfigurationPlan, DatasetPlan, Fingerprint, plan_dataset
from segplan.planning.decathlon2018 import double, pool_by_size

RULES = PRESETS["decathlon2018"]


def _plan(shape: tuple[int, ...], spacing: tuple[float, ...], cases: int, **changes: object) -> DatasetPlan:
    fingerprint = Fingerprint((spacing,) * cases, (shape,) * cases, (), 1.0)
    labels = {"background": 0, "a": 1, "b": 2, "c": 3}
    description = description_of(
        {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": cases, "file_ending": ".mha"}
    )
    return plan_dataset(fingerprint, description, replace(RULES, **changes))


def _poolings(configuration: ConfigurationPlan) -> list[int]:
    return [sum(stride[axis] > 1 for stride in configuration.strides) for axis in range(len(configuration.patch_size))]


def test_brain_tumours_are_planned_as_published() -> None:
    # Medical Segmentation Decathlon, Task01: 484 cases, after cropping 138×169×138 voxels of 1 mm in the median.
    plan = _plan((138, 169, 138), (1.0, 1.0, 1.0), 484)
    slices, volumes = plan.configurations["2d"], plan.configurations["3d_fullres"]
    assert (slices.patch_size, slices.batch_size, _poolings(slices)) == ((192, 160), 89, [5, 5])
    assert (volumes.patch_size, volumes.batch_size, _poolings(volumes)) == ((128, 128, 128), 2, [5, 5, 5])
    assert slices.features[0] == volumes.features[0] == 30
    assert set(volumes.kernel_sizes) == {(3, 3, 3)}
    assert "3d_lowres" in plan.not_planned


def test_hippocampi_are_planned_as_published() -> None:
    plan = plan_dataset(*fixture_inputs("Edge_MSD_Hippocampus_n260"), RULES)
    slices, volumes = plan.configurations["2d"], plan.configurations["3d_fullres"]
    assert (volumes.patch_size, volumes.batch_size, _poolings(volumes)) == ((40, 56, 40), 9, [3, 3, 3])
    assert (slices.patch_size, slices.batch_size, _poolings(slices)) == ((56, 40), 366, [3, 3])


@pytest.mark.parametrize(
    ("size", "limit", "patch", "stages"),
    [
        ((7, 7), 6, (7, 7), 1),
        ((8, 7), 6, (8, 7), 2),
        ((512, 512), 6, (512, 512), 7),
        ((512, 512), 2, (512, 512), 3),
        ((320, 232), 6, (320, 256), 7),  # 232 is halved to 29, 15, 8, 4: rounded up on the way
        ((20, 320, 320), 5, (20, 320, 320), 6),
    ],
)
def test_each_axis_is_halved_until_below_8_but_not_too_often(size, limit, patch, stages) -> None:
    topology = pool_by_size(size, replace(RULES, max_poolings_2d=limit, max_poolings_3d=limit))
    assert (topology.patch_size, topology.stages) == (patch, stages)


def test_a_patch_of_a_large_thin_image_keeps_its_aspect_within_128_cubed() -> None:
    volumes = _plan((40, 640, 640), (3.0, 0.5, 0.5), 50).configurations["3d_fullres"]
    # 40×640×640 shrinks by (128³ / 16.4 M)^(1/3) = 0.504 to 20×323×323, then up to multiples of 4 and 32.
    assert volumes.patch_size == (20, 352, 352)
    assert volumes.batch_size == 2


def test_small_images_get_more_of_them_in_a_batch() -> None:
    volumes = _plan((64, 64, 64), (1.0, 1.0, 1.0), 5000).configurations["3d_fullres"]
    assert (volumes.patch_size, volumes.batch_size) == ((64, 64, 64), 16)


def test_lowres_doubles_finer_axes_first_and_then_all() -> None:
    assert double((2.5, 0.8, 0.8), RULES) == (2.5, 1.6, 1.6)
    assert double((2.5, 1.6, 1.6), RULES) == (5.0, 3.2, 3.2)
    assert double((2.0, 1.0, 1.0), RULES) == (2.0, 2.0, 2.0)
    # Task03: 482×512×512 voxels; doubled twice, the median has 120×128×128 and is the patch.
    low = _plan((482, 512, 512), (1.0, 0.77, 0.77), 131).configurations["3d_lowres"]
    assert (low.spacing, low.median_shape, low.patch_size) == ((4.0, 3.08, 3.08), (120, 128, 128), (128, 128, 128))


def test_reasons_tell_the_rules_of_2018() -> None:
    volumes = _plan((138, 169, 138), (1.0, 1.0, 1.0), 484).configurations["3d_fullres"]
    assert volumes.reasons["patch_size"].startswith("128³, as every axis of the median image is longer")
    assert volumes.reasons["strides"] == "each axis is halved until below 8 voxels, at most 5 times"
    hippocampus = plan_dataset(*fixture_inputs("Edge_MSD_Hippocampus_n260"), RULES).configurations["3d_fullres"]
    assert hippocampus.reasons["batch_size"] == "5 % of the dataset's voxels; 2 × 128³ voxels a batch would be 46"
