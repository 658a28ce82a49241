"""Single rules: memory and parameter counts against networks that were built, options, names, reasons."""

from dataclasses import replace

import pytest
from plan_fixtures import description_of, fixture_inputs

from segplan.errors import ConfigError, DatasetError
from segplan.planning import PRESETS, PlannerSettings, plan_dataset, plan_table
from segplan.planning.memory import count_features, count_parameters
from segplan.planning.normalization import normalization_schemes
from segplan.planning.spacing import resampled_shape
from segplan.planning.topology import derive_topology

PLAIN, RESIDUAL = PRESETS["default"], PRESETS["resenc_m"]


# Feature-map sizes that nnU-Net 2.8.1 counts on networks that it builds.
@pytest.mark.parametrize(
    ("patch", "spacing", "labels", "settings", "elements"),
    [
        ((128, 128, 128), (1, 1, 1), 3, PLAIN, 452_796_416),
        ((128, 128, 128), (1, 1, 1), 3, RESIDUAL, 557_420_544),
        ((192, 192, 192), (1, 1, 1), 3, RESIDUAL, 1_881_294_336),
        ((512, 512), (1, 1), 3, PLAIN, 82_886_656),
        ((512, 512), (1, 1), 3, RESIDUAL, 129_703_936),
        ((20, 320, 256), (3.6, 0.625, 0.625), 3, PLAIN, 483_315_200),
        ((40, 56, 40), (1, 1, 1), 3, PLAIN, 19_174_400),
        ((112, 128, 112), (1.5, 1.5, 1.5), 105, PLAIN, 510_039_040),
    ],
)
def test_feature_count_equals_that_of_a_built_network(patch, spacing, labels, settings, elements) -> None:
    strides = derive_topology(spacing, patch, settings).strides
    assert count_features(patch, strides, labels, settings) == elements


# Parameters of networks that dynamic-network-architectures 0.4.4 built from the same strides and kernels.
@pytest.mark.parametrize(
    ("patch", "spacing", "channels", "heads", "settings", "parameters"),
    [
        ((20, 320, 256), (3.6, 0.625, 0.625), 2, 3, PLAIN, 44_578_770),
        ((20, 320, 256), (3.6, 0.625, 0.625), 2, 3, RESIDUAL, 140_403_602),
        ((512, 512), (1, 1), 3, 2, PLAIN, 46_325_134),
        ((512, 512), (1, 1), 3, 2, RESIDUAL, 140_017_614),
        ((40, 56, 40), (1, 1, 1), 1, 3, PLAIN, 5_603_177),
        ((40, 56, 40), (1, 1, 1), 1, 3, RESIDUAL, 25_895_593),
    ],
)
def test_parameter_count_equals_that_of_a_built_network(patch, spacing, channels, heads, settings, parameters) -> None:
    topology = derive_topology(spacing, patch, settings)
    counted = count_parameters(channels, heads, topology.strides, topology.kernel_sizes, settings)
    assert counted == parameters


def test_one_stage_network_counts_neither_decoder_nor_head() -> None:
    assert count_features((7, 7), [(1, 1)], 5, PLAIN) == 2 * 32 * 49


@pytest.mark.parametrize(
    ("size", "strides"), [((7, 7, 7), 1), ((11, 7, 7), 1), ((12, 7, 7), 2), ((8, 8, 7), 2), ((16, 16, 16), 3)]
)
def test_an_axis_is_halved_from_8_voxels_and_a_lone_one_from_12(size, strides) -> None:
    assert len(derive_topology((1, 1, 1), size, PLAIN).strides) == strides


def test_fractional_sizes_are_rounded_up_to_the_strides() -> None:
    assert derive_topology((50, 1, 1), (20.5, 33, 7), PLAIN).patch_size == (21, 36, 7)


def test_resampled_sizes_round_halves_to_even() -> None:
    assert resampled_shape((5, 7, 1), (0.5, 0.5, 0.4), (1, 1, 1)) == (2, 4, 0)


def test_only_whole_channel_names_choose_a_normalization() -> None:
    names = ("cT", "CT1", "noNorm", "Rescale_to_0_1", "rgb_to_0_1", "zscore", "T2")
    assert normalization_schemes(names) == (
        "ct",
        "zscore",
        "none",
        "rescale_to_0_1",
        "rgb_to_0_1",
        "zscore",
        "zscore",
    )


def test_target_spacing_override_is_used_for_all_configurations() -> None:
    settings = replace(PLAIN, target_spacing=(1.0, 2.0, 8.0))
    plan = plan_dataset(*fixture_inputs("Prostate"), settings)
    assert plan.transpose == (2, 0, 1)
    assert plan.configurations["3d_fullres"].spacing == (8.0, 1.0, 2.0)
    assert plan.configurations["2d"].spacing == (None, 1.0, 2.0)


def test_larger_minimum_batch_shrinks_the_patch_so_that_it_fits() -> None:
    usual = plan_dataset(*fixture_inputs("Prostate"), PLAIN).configurations["3d_fullres"]
    wanted = plan_dataset(*fixture_inputs("Prostate"), replace(PLAIN, min_batch_size=4)).configurations["3d_fullres"]
    assert wanted.batch_size >= 4
    assert wanted.patch_size < usual.patch_size
    assert wanted.memory_gb <= 8


def test_budget_that_holds_no_patch_is_refused() -> None:
    with pytest.raises(ConfigError, match="fits 1e-06 GB"):
        plan_dataset(*fixture_inputs("Prostate"), replace(PLAIN, gpu_memory_gb=1e-6))


def test_median_that_rounds_to_no_voxel_is_planned_but_marked() -> None:
    settings = replace(PLAIN, target_spacing=(1000.0, 0.625, 0.625))
    plan = plan_dataset(*fixture_inputs("Prostate"), settings, ["3d_fullres"])
    assert "rounds to 0 voxels" in str(plan.configurations["3d_fullres"].not_runnable)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1e9), (1e-9, 1.0, 1.0)])
def test_extremely_anisotropic_targets_leave_every_axis_of_the_patch_a_voxel(spacing: tuple[float, ...]) -> None:
    plan = plan_dataset(*fixture_inputs("Prostate"), replace(PLAIN, target_spacing=spacing))
    assert all(min(entry.patch_size) >= 1 for entry in plan.configurations.values())


def test_one_stage_plan_is_marked_with_the_reason() -> None:
    plan = plan_dataset(*fixture_inputs("Edge_tiny_no_pooling"), PLAIN)
    assert all("too small" in str(entry.not_runnable) for entry in plan.configurations.values())


def test_pictures_have_no_3d_configuration_and_asking_for_it_alone_is_refused() -> None:
    plan = plan_dataset(*fixture_inputs("Png2D"), PLAIN)
    assert list(plan.configurations) == ["2d"]
    assert set(plan.not_planned) == {"3d_fullres", "3d_lowres", "3d_cascade_fullres"}
    with pytest.raises(ConfigError, match="one slice thick"):
        plan_dataset(*fixture_inputs("Png2D"), PLAIN, ["3d_fullres"])


def test_configurations_share_data_where_all_cases_have_the_same_slice_spacing() -> None:
    assert plan_dataset(*fixture_inputs("Hippocampus"), PLAIN).configurations["2d"].common_slice_spacing == 1.0
    assert (
        plan_dataset(*fixture_inputs("Edge_ACDC_percentile10"), PLAIN).configurations["2d"].common_slice_spacing is None
    )
    assert plan_dataset(*fixture_inputs("Png2D"), PLAIN).configurations["2d"].common_slice_spacing is None


def test_reasons_tell_how_patch_and_batch_came_about() -> None:
    plan = plan_dataset(*fixture_inputs("Prostate"), PLAIN)
    configuration = plan.configurations["3d_fullres"]
    assert configuration.reasons["patch_size"] == (
        "20×320×320 needed 604.1 M features, the 8 GB budget holds 560 M: shortened x once"
    )
    assert [step.patch_size for step in configuration.trace] == [(20, 320, 320), (20, 320, 256)]
    assert "80 % of the median image" in plan.not_planned["3d_lowres"]
    hippocampus = plan_dataset(*fixture_inputs("Edge_MSD_Hippocampus_n260"), PLAIN).configurations["3d_fullres"]
    assert hippocampus.reasons["batch_size"] == "5 % of the dataset's voxels; the 8 GB budget would hold 58"


def test_table_has_a_row_for_each_configuration_that_was_asked_for() -> None:
    rows = plan_table(plan_dataset(*fixture_inputs("Prostate"), PLAIN, ["2d", "3d_fullres", "3d_lowres"]))
    assert [(row.configuration, row.patch, row.parameters) for row in rows] == [
        ("2d", "320×320", "33.5 M parameters"),
        ("3d_fullres", "20×320×256", "44.6 M parameters"),
        ("3d_lowres", "", ""),
    ]
    assert rows[1].memory == "~6.9 GB"
    assert rows[2].note.startswith("not needed")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpu_memory_gb", 0),
        ("gpu_memory_gb", 1e308),
        ("anisotropic_percentile", 101.0),
        ("min_batch_size", -1),
        ("max_dataset_fraction", 1.5),
        ("lowres_spacing_step", 1.0),
        ("target_spacing", (1.0, 0.0, 1.0)),
        ("network", "transformer"),
        ("blocks_per_stage", ()),
        ("blocks_per_stage", ("one",)),
        ("min_batch_size", 2.5),
        ("gpu_memory_gb", "auto"),
        ("transpose", 1),
        ("target_spacing", "1"),
        ("target_spacing", (1.0, "b", 2.0)),
        ("name", None),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"planner\.{name}"):
        PlannerSettings(**{name: value})


@pytest.mark.parametrize("name", ["a@b", "a${b}", "a/b", " a", ".."])
def test_names_that_hydra_cannot_address_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a plan"):
        plan_dataset(*fixture_inputs("Prostate"), PLAIN, dataset=name)


def test_unknown_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="3d_fulres"):
        plan_dataset(*fixture_inputs("Prostate"), PLAIN, ["3d_fulres"])


def test_fingerprint_of_other_channels_is_refused() -> None:
    fingerprint, _ = fixture_inputs("Prostate")
    description = description_of(
        {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 32, "file_ending": ".mha"}
    )
    with pytest.raises(DatasetError, match="2 channels"):
        plan_dataset(fingerprint, description, PLAIN)
