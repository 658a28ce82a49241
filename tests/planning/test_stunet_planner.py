"""STU-Net in place of the planned network: the default planner's patch and batch, fixed poolings, its own numbers."""

from dataclasses import replace

import pytest
from plan_fixtures import fixture_inputs, fixtures

from segplan.errors import ConfigError
from segplan.planning import PRESETS, check_patch, plan_dataset, plan_table
from segplan.planning.emit import configuration_yaml
from segplan.planning.stunet import count_stunet_features, count_stunet_parameters

SIZES = ("stunet_s", "stunet_b", "stunet_l", "stunet_h")


# Counted on the authors' classes with 1 input and 105 classes; published as 14.6, 58.26, 440.30 and 1457.33 M.
@pytest.mark.parametrize(
    ("planner", "parameters"),
    zip(SIZES, (14_596_941, 58_262_669, 440_302_605, 1_457_326_221), strict=True),
)
def test_parameters_are_those_of_the_published_networks(planner: str, parameters: int) -> None:
    assert count_stunet_parameters(1, 105, PRESETS[planner]) == parameters


def test_each_further_channel_and_class_adds_what_the_first_layer_and_the_heads_hold() -> None:
    base = count_stunet_parameters(1, 105, PRESETS["stunet_b"])
    assert count_stunet_parameters(2, 105, PRESETS["stunet_b"]) - base == 28 * 32
    assert count_stunet_parameters(1, 106, PRESETS["stunet_b"]) - base == 32 + 64 + 128 + 256 + 512 + 5


def test_feature_count_equals_that_of_a_built_network() -> None:
    torch = pytest.importorskip("torch")
    from segplan.networks import STUNet

    settings = replace(PRESETS["stunet_b"], stunet_features=(4, 8, 8), stunet_blocks_per_stage=(2, 1, 3))
    strides, patch = ((1, 1, 1), (1, 2, 2), (2, 2, 2)), (4, 16, 8)
    network = STUNet(1, 3, settings.stunet_features, settings.stunet_blocks_per_stage, strides, deep_supervision=False)
    counted = 0

    def count(module: object, _: object, output: object) -> None:
        nonlocal counted
        counted += output.numel()

    kept = [m for m in network.conv_blocks_context.modules() if isinstance(m, torch.nn.Conv3d)]
    kept += [m for m in network.conv_blocks_localization.modules() if isinstance(m, torch.nn.Conv3d)]
    kept += [*network.upsample_layers, network.seg_outputs[-1]]
    for module in kept:
        module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 1, *patch))
    assert count_stunet_features(patch, strides, 3, settings) == counted
    assert sum(p.numel() for p in network.parameters()) == count_stunet_parameters(1, 3, settings)


@pytest.mark.parametrize("name", fixtures())
def test_spacing_patch_and_batch_are_the_default_planners(name: str) -> None:
    default = plan_dataset(*fixture_inputs(name), PRESETS["default"])
    if set(default.configurations) == {"2d"}:
        with pytest.raises(ConfigError, match=r"2d does not exist: STU-Net is for volumes.*one slice thick"):
            plan_dataset(*fixture_inputs(name), PRESETS["stunet_s"])
        return
    plan = plan_dataset(*fixture_inputs(name), PRESETS["stunet_s"])
    assert plan.group.endswith("/stunet_s")
    assert "volumes" in plan.not_planned["2d"]
    assert set(plan.configurations) == set(default.configurations) - {"2d"}
    for configuration, ours in plan.configurations.items():
        theirs = default.configurations[configuration]
        for field in ("spacing", "patch_size", "batch_size", "median_shape", "batch_dice", "dummy_2d", "trace"):
            assert getattr(ours, field) == getattr(theirs, field), field
        check_patch(ours.patch_size, ours.strides)
        assert len(ours.strides) == len(ours.features) == 6
        assert set(ours.kernel_sizes) == {(3, 3, 3)}
        assert ours.runnable


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        # Six poolings are planned: the first five are taken.
        ("Prostate", [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]),
        ("BraTS", [[1, 1, 1], *[[2, 2, 2]] * 5]),
        # Three are planned: two stages without pooling follow.
        ("Hippocampus", [[1, 1, 1], *[[2, 2, 2]] * 3, [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_poolings_are_the_planned_ones_cut_or_filled_to_five(name: str, strides: list[list[int]]) -> None:
    plan = plan_dataset(*fixture_inputs(name), PRESETS["stunet_l"], ["3d_fullres"]).configurations["3d_fullres"]
    assert [list(stride) for stride in plan.strides] == strides
    assert "kernel_sizes" not in plan.network_arguments
    assert plan.network_arguments["blocks_per_stage"] == (2,) * 6
    assert plan.features == (64, 128, 256, 512, 1024, 1024)


def test_memory_beyond_the_budget_warns_and_leaves_the_patch() -> None:
    plan = plan_dataset(*fixture_inputs("BraTS"), PRESETS["stunet_h"], ["3d_fullres"])
    huge = plan.configurations["3d_fullres"]
    assert huge.patch_size == (128, 128, 128)
    assert huge.memory_gb > 60
    assert "network.activation_checkpointing=true" in str(huge.warning)
    assert "network.activation_checkpointing=true" in configuration_yaml(plan, huge)
    assert plan_table(plan)[0].memory == f"~{huge.memory_gb:.1f} GB"
    small = plan_dataset(*fixture_inputs("Hippocampus"), PRESETS["stunet_s"], ["3d_fullres"])
    assert small.configurations["3d_fullres"].warning is None
