"""What holds for any valid fingerprint and every preset."""

import math

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_fixtures import description_of

from segplan.planning import PRESETS, Fingerprint, plan_dataset
from segplan.planning.emit import configuration_yaml, dataset_yaml

SPACING = st.floats(0.05, 20)
SIZE = st.integers(1, 700)


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    """Cases around one spacing and size, as in one dataset."""
    spacing = draw(st.tuples(SPACING, SPACING, SPACING))
    size = draw(st.tuples(SIZE, SIZE, SIZE))
    factors = draw(st.lists(st.floats(0.5, 2), min_size=1, max_size=6))
    return Fingerprint(
        spacings=tuple(tuple(value * factor for value in spacing) for factor in factors),
        shapes_after_crop=tuple(tuple(max(1, round(value / factor)) for value in size) for factor in factors),
        intensities=(),
        median_relative_size=draw(st.floats(0.01, 1)),
    )


@settings(max_examples=100, deadline=None)
@given(fingerprints(), st.sampled_from(sorted(PRESETS)), st.integers(1, 120), st.integers(1, 500))
def test_plan_fits_its_strides_and_budget_or_is_marked(
    fingerprint: Fingerprint, preset: str, labels: int, cases: int
) -> None:
    description = description_of(
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0} | {f"label {value}": value for value in range(1, labels + 1)},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
    )
    plan = plan_dataset(fingerprint, description, PRESETS[preset])
    assert "2d" in plan.configurations
    assert sorted(plan.transpose) == [0, 1, 2]
    for configuration in plan.configurations.values():
        divisor = [
            math.prod(stride[axis] for stride in configuration.strides) for axis in range(len(configuration.patch_size))
        ]
        assert all(size > 0 and size % step == 0 for size, step in zip(configuration.patch_size, divisor, strict=True))
        assert len(configuration.strides) == len(configuration.kernel_sizes) == len(configuration.features)
        assert len(configuration.strides) > 1 or configuration.not_runnable
        pooled = [size // step for size, step in zip(configuration.patch_size, divisor, strict=True) if step > 1]
        assert all(size >= 4 for size in pooled)
        assert configuration.batch_size >= 2
        assert configuration.trace[-1].patch_size == configuration.patch_size
        assert configuration.trace[-1].features <= PRESETS[preset].budget(len(configuration.patch_size))
        node = yaml.safe_load(configuration_yaml(plan, configuration))
        assert node["plan"]["spacing"] == list(configuration.spacing)
        assert node["data"] == {
            "patch_size": list(configuration.patch_size),
            "batch_size": configuration.batch_size,
        }
    assert yaml.safe_load(dataset_yaml(plan))["plan"]["num_classes"] == labels + 1
    if "3d_lowres" in plan.configurations:
        low, full = plan.configurations["3d_lowres"], plan.configurations["3d_fullres"]
        assert full.batch_dice and not low.batch_dice
        assert all(coarse >= fine for coarse, fine in zip(low.spacing, full.spacing, strict=True))
