"""What holds for any valid fingerprint and every planner."""

import math
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_fixtures import description_of

from segplan.dataset import Description
from segplan.errors import ConfigError
from segplan.planning import PRESETS, ConfigurationPlan, DatasetPlan, Fingerprint, PlannerSettings, plan_dataset
from segplan.planning.emit import configuration_yaml, dataset_yaml

SPACING = st.floats(0.05, 20)
SIZE = st.one_of(st.integers(1, 20), st.integers(20, 100), st.integers(100, 3000))
MOST_VOXELS = 8_000  # of a patch that is sent through a network here


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    """Cases around one spacing and size, as in one dataset; pictures, single slices and thick slices among them."""
    kind = draw(st.sampled_from(["volumes", "isotropic", "thick slices", "single slices", "pictures"]))
    spacing, size = draw(st.tuples(SPACING, SPACING, SPACING)), draw(st.tuples(SIZE, SIZE, SIZE))
    factors = draw(st.lists(st.floats(0.5, 2), min_size=1, max_size=6))
    if kind == "pictures":
        spacing, factors = (999.0, 1.0, 1.0), [1.0] * len(factors)
    elif kind == "isotropic":
        spacing = (spacing[0],) * 3
    elif kind == "thick slices":
        spacing = (spacing[0] * 5, spacing[0], spacing[0])
    if kind in ("pictures", "single slices"):
        size = (1, *size[1:])
    turned = draw(st.permutations(range(3))) if kind != "pictures" else range(3)
    return Fingerprint(
        spacings=tuple(tuple(spacing[axis] * factor for axis in turned) for factor in factors),
        shapes_after_crop=tuple(tuple(max(1, round(size[axis] / factor)) for axis in turned) for factor in factors),
        intensities=(),
        median_relative_size=draw(st.floats(0.01, 1)),
    )


def description(labels: int, cases: int) -> Description:
    return description_of(
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0} | {f"label {value}": value for value in range(1, labels + 1)},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
    )


def planned(fingerprint: Fingerprint, about: Description, planner: PlannerSettings) -> DatasetPlan | None:
    """The plan; None where STU-Net is asked for slices, which it refuses."""
    if planner.network != "stunet":
        return plan_dataset(fingerprint, about, planner)
    try:
        return plan_dataset(fingerprint, about, planner)
    except ConfigError as error:
        assert "STU-Net is for volumes" in str(error)
        assert "one slice thick" in str(error)
        return None


def check_consistent(configuration: ConfigurationPlan, planner: PlannerSettings) -> None:
    patch, strides = configuration.patch_size, configuration.strides
    divisor = [math.prod(stride[axis] for stride in strides) for axis in range(len(patch))]
    assert all(size > 0 and size % step == 0 for size, step in zip(patch, divisor, strict=True))
    assert len(strides) == len(configuration.kernel_sizes) == len(configuration.features)
    assert len(strides) > 1 or configuration.not_runnable
    pooled = [size // step for size, step in zip(patch, divisor, strict=True) if step > 1]
    assert all(size >= planner.min_bottleneck_edge for size in pooled)
    assert configuration.batch_size >= planner.min_batch_size
    assert configuration.trace[-1].patch_size == patch


@settings(max_examples=150, deadline=None)
@given(fingerprints(), st.sampled_from(sorted(PRESETS)), st.integers(1, 120), st.integers(1, 500), st.booleans())
def test_plan_fits_its_strides_and_budget_or_is_marked(
    fingerprint: Fingerprint, preset: str, labels: int, cases: int, repair: bool
) -> None:
    planner = replace(PRESETS[preset], repair=repair)
    plan = planned(fingerprint, description(labels, cases), planner)
    if plan is None:
        return
    assert ("2d" in plan.configurations) is (planner.network != "stunet")
    assert sorted(plan.transpose) == [0, 1, 2]
    for configuration in plan.configurations.values():
        check_consistent(configuration, planner)
        if planner.rules == "memory_budget" and "repaired" not in configuration.reasons["patch_size"]:
            assert configuration.trace[-1].features <= planner.budget(len(configuration.patch_size))
        assert configuration.runnable or not repair
        node = yaml.safe_load(configuration_yaml(plan, configuration))
        assert node["plan"]["spacing"] == list(configuration.spacing)
        assert node["data"] == {"patch_size": list(configuration.patch_size), "batch_size": configuration.batch_size}
    assert yaml.safe_load(dataset_yaml(plan))["plan"]["num_classes"] == labels + 1
    if "3d_lowres" in plan.configurations:
        low, full = plan.configurations["3d_lowres"], plan.configurations["3d_fullres"]
        assert full.batch_dice and not low.batch_dice
        assert all(coarse >= fine for coarse, fine in zip(low.spacing, full.spacing, strict=True))


def small(planner: PlannerSettings) -> PlannerSettings:
    """The same rules with networks and patches that a CPU runs in milliseconds."""
    return replace(
        planner,
        gpu_memory_gb=planner.gpu_memory_gb / 1000,
        initial_patch_edge_2d=64,
        initial_patch_edge_3d=16,
        base_features=2,
        max_features_2d=6,
        max_features_3d=6,
        blocks_per_stage=(1, 2),
        stunet_features=(2, 3, 4, 4, 4, 4),
        stunet_blocks_per_stage=(1, 2, 1, 1, 1, 1),
    )


def run_step(configuration: ConfigurationPlan, labels: int) -> None:
    """A forward and backward pass in training mode, as the plan describes the network."""
    torch = pytest.importorskip("torch")
    from segplan import networks

    classes = {"plain_unet": "PlainUNet", "residual_unet": "ResidualUNet", "stunet": "STUNet"}
    arguments = {"input_channels": 1, "num_classes": labels + 1} | dict(configuration.network_arguments)
    network = getattr(networks, classes[configuration.network])(**arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == configuration.parameters
    outputs = network.train()(torch.randn(1, arguments["input_channels"], *configuration.patch_size))
    assert tuple(outputs[0].shape) == (1, labels + 1, *configuration.patch_size)
    assert len(outputs) == len(configuration.strides) - 1
    sum(output.mean() for output in outputs).backward()


@settings(max_examples=20, deadline=None)
@given(fingerprints(), st.sampled_from(sorted(PRESETS)), st.sampled_from([1, 2, 7]), st.booleans())
def test_planned_network_trains_or_says_why_not_and_repaired_always_trains(
    fingerprint: Fingerprint, preset: str, labels: int, repair: bool
) -> None:
    planner = replace(small(PRESETS[preset]), repair=repair)
    plan = planned(fingerprint, description(labels, 40), planner)
    for configuration in plan.configurations.values() if plan else ():
        check_consistent(configuration, planner)
        assert configuration.runnable or not repair
        if configuration.runnable and math.prod(configuration.patch_size) <= MOST_VOXELS:
            run_step(configuration, labels)
        elif not configuration.runnable:
            assert "too small" in configuration.not_runnable or "0 voxels" in configuration.not_runnable
