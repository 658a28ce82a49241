"""Plans that cannot run are marked, and with planner.repair mended, with the reason."""

from dataclasses import replace

import pytest
from plan_fixtures import description_of, fixture_inputs, fixtures

from segplan.planning import PRESETS, ConfigurationPlan, Fingerprint, PlannerSettings, check_patch, plan_dataset
from segplan.planning.emit import configuration_yaml

DEFAULT = PRESETS["default"]


def _planned(shape: tuple[int, ...], settings: PlannerSettings, name: str = "3d_fullres") -> ConfigurationPlan:
    fingerprint = Fingerprint(((1.0, 1.0, 1.0),) * 5, (shape,) * 5, (), 1.0)
    labels = {"background": 0, "a": 1}
    description = description_of(
        {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": 5, "file_ending": ".mha"}
    )
    return plan_dataset(fingerprint, description, settings, [name]).configurations[name]


@pytest.mark.parametrize("planner", ["default", "resenc_m", "resenc_xl", "decathlon2018"])
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_an_image_too_small_to_be_halved_is_marked_or_its_patch_enlarged(planner: str, name: str) -> None:
    settings = PRESETS[planner]
    marked = plan_dataset(*fixture_inputs("Edge_tiny_no_pooling"), settings).configurations[name]
    assert "too small to be halved" in str(marked.not_runnable)
    plan = plan_dataset(*fixture_inputs("Edge_tiny_no_pooling"), replace(settings, repair=True))
    mended = plan.configurations[name]
    assert mended.runnable
    assert mended.patch_size == (8,) * len(marked.patch_size)
    assert len(mended.strides) == len(mended.features) == 2
    assert mended.reasons["patch_size"].startswith("repaired: the median image, 7×7")
    assert mended.trace[-1].patch_size == mended.patch_size
    assert "# repaired: the median image" in configuration_yaml(plan, mended)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((1, 7, 9), (1, 8, 10)), ((1, 1, 7), (1, 1, 12)), ((3, 2, 1), (8, 8, 1)), ((2, 1, 1), (12, 1, 1))],
)
def test_axes_of_one_voxel_stay_and_a_lone_axis_is_enlarged_further(shape, patch) -> None:
    spacing = ((1.0, 1.0, 1.0),) * 5
    description = description_of(
        {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "numTraining": 5, "file_ending": ".mha"}
    )
    # A first axis of one voxel is planned in 3D where the cases' own sizes differ from the median's.
    settings = replace(DEFAULT, repair=True, transpose=False)
    configurations = plan_dataset(Fingerprint(spacing, (shape,) * 5, (), 1.0), description, settings).configurations
    if shape[0] == 1:
        assert configurations["2d"].patch_size == patch[1:]
    else:
        assert configurations["3d_fullres"].patch_size == patch
    assert all(configuration.runnable for configuration in configurations.values())


def test_a_budget_that_leaves_too_small_a_patch_is_named_as_the_cause() -> None:
    tight = replace(DEFAULT, gpu_memory_gb=3.5e-4)
    marked = _planned((64, 64, 64), tight)
    assert "the patch that the budget leaves, 7×7×7" in str(marked.not_runnable)
    assert _planned((64, 64, 64), replace(tight, repair=True)).runnable


def test_a_single_voxel_at_the_lowest_resolution_is_marked_or_mended() -> None:
    settings = replace(DEFAULT, min_bottleneck_edge=1)
    marked = _planned((8, 8, 8), settings)
    assert "single voxel" in str(marked.not_runnable)
    mended = _planned((8, 8, 8), replace(settings, repair=True))
    assert mended.runnable
    assert mended.strides == marked.strides
    check_patch(mended.patch_size, mended.strides)


def test_an_axis_that_rounds_to_no_voxel_is_marked_or_keeps_one() -> None:
    settings = replace(DEFAULT, target_spacing=(1000.0, 0.625, 0.625))
    marked = plan_dataset(*fixture_inputs("Prostate"), settings).configurations["3d_fullres"]
    assert marked.not_runnable == "the median image rounds to 0 voxels along z at this spacing"
    mended = plan_dataset(*fixture_inputs("Prostate"), replace(settings, repair=True)).configurations["3d_fullres"]
    assert mended.runnable
    assert (mended.median_shape[0], mended.patch_size[0]) == (1, 1)
    assert mended.reasons["median_shape"].endswith("repaired: it rounded to 0 voxels along z and keeps one")


@pytest.mark.parametrize("planner", ["default", "resenc_l", "decathlon2018"])
@pytest.mark.parametrize("name", [name for name in fixtures() if name != "Edge_tiny_no_pooling"])
def test_repair_leaves_plans_that_run_as_they_are(name: str, planner: str) -> None:
    settings = PRESETS[planner]
    plain, mended = (
        plan_dataset(*fixture_inputs(name), option) for option in (settings, replace(settings, repair=True))
    )
    assert plain.configurations == mended.configurations
