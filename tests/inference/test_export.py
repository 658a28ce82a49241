import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from segplan.dataset import Labels
from segplan.inference import logits_to_labels, logits_to_probabilities, slabs_to_labels
from segplan.preprocessing import CaseProperties, PreprocessingPlan, resample_image

PLAIN = Labels.from_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3}})
REGIONS = Labels.from_json(
    {"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "edge": 3}, "regions_class_order": [1, 2, 3]}
)


def plan_of(spacing, transpose) -> PreprocessingPlan:
    return PreprocessingPlan(spacing, transpose, ("none",), (False,), (None,))


def properties_of(shape, cropped, before, low, spacing, transpose) -> CaseProperties:
    box = tuple((first, first + size) for first, size in zip(low, cropped, strict=True))
    return CaseProperties(spacing, before, box, cropped, shape, transpose, {})


@st.composite
def cases(draw):
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    cropped = draw(st.tuples(*[st.integers(1, 14)] * 3))
    low = draw(st.tuples(*[st.integers(0, 3)] * 3))
    extra = draw(st.tuples(*[st.integers(0, 3)] * 3))
    before = tuple(sum(parts) for parts in zip(low, cropped, extra, strict=True))
    transpose = draw(st.permutations((0, 1, 2)).map(tuple))
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 1.0, 1.2, 4.0])] * 3))
    target = draw(st.tuples(st.sampled_from([None, 0.8, 1.0, 5.0]), st.sampled_from([0.9, 4.5]), st.just(1.0)))
    return plan_of(target, transpose), properties_of(shape, cropped, before, low, spacing, transpose)


def whole_volume(logits, properties, plan, labels) -> np.ndarray:
    """Resample everything, decide, un-crop, transpose back."""
    own = [properties.spacing[axis] for axis in properties.transpose]
    target = plan.target_spacing(properties.spacing)
    full = resample_image(logits, properties.shape_after_cropping, target, own, order=1)
    if labels.has_regions:
        decided = np.zeros(full.shape[1:], np.uint8)
        for channel, value in zip(full, labels.regions_class_order, strict=True):
            decided[channel > 0] = value
    else:
        decided = full.argmax(0).astype(np.uint8)
    result = np.zeros(properties.shape_before_cropping, np.uint8)
    result[tuple(slice(*pair) for pair in properties.box)] = decided
    return result.transpose(np.argsort(properties.transpose)), full


@settings(max_examples=60, deadline=None)
@given(case=cases(), regions=st.booleans(), seed=st.integers(0, 1000), data=st.data())
def test_slab_wise_labels_equal_the_whole_volume_formula(case, regions, seed, data):
    plan, properties = case
    labels = REGIONS if regions else PLAIN
    logits = np.random.default_rng(seed).normal(size=(3 if regions else 4, *properties.shape)).astype(np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, properties.shape[0]), max_size=3)))
    slabs = np.split(logits, cuts, axis=1)
    expected, full = whole_volume(logits, properties, plan, labels)
    found = slabs_to_labels(slabs, properties, plan, labels)
    ordered = np.sort(full, axis=0)
    margin = np.abs(full).min(axis=0) if regions else ordered[-1] - ordered[-2]
    unsure = np.zeros(properties.shape_before_cropping, bool)
    unsure[tuple(slice(*pair) for pair in properties.box)] = margin < 1e-5
    sure = ~unsure.transpose(np.argsort(properties.transpose))
    assert found.shape == expected.shape
    assert np.array_equal(found[sure], expected[sure])


def test_joint_resampling_is_torchs_trilinear_interpolation():
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(4, 6, 9, 7)).astype(np.float32)
    properties = properties_of((6, 9, 7), (11, 13, 10), (11, 13, 10), (0, 0, 0), (1.0, 1.0, 1.0), (0, 1, 2))
    plan = plan_of((1.8, 1.4, 1.4), (0, 1, 2))
    full = F.interpolate(torch.from_numpy(logits)[None], size=(11, 13, 10), mode="trilinear")[0]
    probabilities = logits_to_probabilities(logits, properties, plan, PLAIN)
    assert np.allclose(probabilities, full.softmax(0), atol=1e-5)
    assert np.mean(logits_to_labels(logits, properties, plan, PLAIN) == full.argmax(0).numpy()) > 0.999


def test_thick_slices_are_not_mixed():
    logits = np.random.default_rng(4).normal(size=(4, 3, 5, 5)).astype(np.float32)
    properties = properties_of((3, 5, 5), (6, 5, 5), (6, 5, 5), (0, 0, 0), (2.5, 1.0, 1.0), (0, 1, 2))
    labels = logits_to_labels(logits, properties, plan_of((5.0, 1.0, 1.0), (0, 1, 2)), PLAIN)
    assert np.array_equal(labels, logits.argmax(0).repeat(2, axis=0))


def test_equal_logits_give_the_lowest_label():
    properties = properties_of((2, 3, 3), (4, 6, 6), (4, 6, 6), (0, 0, 0), (1.0, 1.0, 1.0), (0, 1, 2))
    assert not logits_to_labels(
        np.ones((4, 2, 3, 3), np.float32), properties, plan_of((2, 2, 2), (0, 1, 2)), PLAIN
    ).any()


def test_outside_the_crop_box_there_is_background():
    properties = properties_of((2, 2, 2), (2, 2, 2), (4, 4, 4), (1, 1, 1), (1.0, 1.0, 1.0), (2, 0, 1))
    plan = plan_of((1.0, 1.0, 1.0), (2, 0, 1))
    logits = np.zeros((4, 2, 2, 2), np.float32)
    logits[2] = 5
    labels = logits_to_labels(logits, properties, plan, PLAIN)
    assert labels.sum() == 2 * 8
    probabilities = logits_to_probabilities(logits, properties, plan, PLAIN)
    assert np.allclose(probabilities.sum(0), 1)
    assert np.array_equal(probabilities.argmax(0), labels)
    regions = logits_to_probabilities(logits[:3], properties, plan, REGIONS)
    assert regions[:, 0, 0, 0].tolist() == [0, 0, 0]


def test_many_labels_get_a_wider_type():
    names = {"background": 0} | {f"organ {value}": value for value in range(1, 257)}
    logits = np.zeros((257, 1, 1, 1), np.float32)
    logits[256] = 1
    properties = properties_of((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1.0, 1.0, 1.0), (0, 1, 2))
    labels = logits_to_labels(logits, properties, plan_of((1, 1, 1), (0, 1, 2)), Labels.from_json({"labels": names}))
    assert labels.dtype == np.uint16
    assert labels.item() == 256


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(monkeypatch, threads):
    logits = np.random.default_rng(5).normal(size=(4, 6, 9, 7)).astype(np.float32)
    properties = properties_of((6, 9, 7), (20, 13, 10), (20, 13, 10), (0, 0, 0), (1.0, 1.0, 1.0), (0, 1, 2))
    plan = plan_of((3.0, 1.4, 1.4), (0, 1, 2))
    expected = logits_to_labels(logits, properties, plan, PLAIN)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert np.array_equal(logits_to_labels(logits, properties, plan, PLAIN), expected)
