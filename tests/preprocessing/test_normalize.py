import numpy as np
import pytest

from segplan.errors import ImageError, PlanError
from segplan.imaging import Geometry, Image
from segplan.preprocessing import PreprocessingPlan, preprocess
from segplan.preprocessing.normalize import mean_and_std, normalize_channel

CT = {"mean": 50.0, "std": 20.0, "percentile_00_5": -10.0, "percentile_99_5": 120.0}
IDENTITY = {"dimension": 3, "spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}


def volume(low=-200, high=300, shape=(6, 7, 8)):
    return np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)


def normalized(scheme, channel, **options):
    result = channel.copy()
    normalize_channel(result, scheme, **options)
    return result


def make_plan(scheme="zscore", use_mask=False, spacing=(1.0, 1.0, 1.0), transpose=(0, 1, 2), intensities=None):
    return PreprocessingPlan(spacing, transpose, (scheme,), (use_mask,), (intensities,))


def make_image(array, spacing=(1.0, 1.0, 1.0)):
    return Image(array[None].astype(np.float32), spacing, Geometry.from_json(IDENTITY))


def test_zscore_has_mean_0_and_population_std_1():
    channel = volume()
    exact = channel.astype(np.float64)
    assert np.allclose(normalized("zscore", channel), (exact - exact.mean()) / exact.std(), atol=1e-6)


def test_moments_are_exact_where_float32_sums_would_drift():
    channel = np.full(3_000_000, 1e4, dtype=np.float32)
    channel[::2] += 1
    assert mean_and_std(channel) == pytest.approx((1e4 + 0.5, 0.5), rel=1e-12)


def test_zscore_with_mask_looks_at_and_changes_the_mask_only():
    channel, mask = volume(), volume() > 0
    result = normalized("zscore", channel, mask=mask)
    inside = channel[mask].astype(np.float64)
    assert np.allclose(result[mask], (inside - inside.mean()) / inside.std(), atol=1e-6)
    assert np.array_equal(result[~mask], channel[~mask])


def test_ct_clips_and_uses_the_training_sets_statistics():
    channel = volume()
    assert np.allclose(normalized("ct", channel, intensities=CT), (np.clip(channel, -10, 120) - 50) / 20, atol=1e-6)


def test_other_schemes():
    channel = volume()
    assert np.array_equal(normalized("none", channel), channel)
    rescaled = normalized("rescale_to_0_1", channel)
    assert np.allclose(rescaled, (channel - channel.min()) / np.ptp(channel), atol=1e-6)
    assert rescaled.min() == 0 and rescaled.max() == 1
    rgb = volume(0, 255)
    assert np.allclose(normalized("rgb_to_0_1", rgb), rgb / 255, atol=1e-7)


@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1"])
def test_a_constant_channel_stays_finite(scheme):
    assert np.array_equal(normalized(scheme, np.full((2, 3, 4), 7, dtype=np.float32)), np.zeros((2, 3, 4)))


def test_rgb_beyond_8_bit_is_refused():
    with pytest.raises(ImageError, match="0 and 255"):
        normalized("rgb_to_0_1", volume(0, 4000))


def test_an_empty_image_is_kept_whole():
    result = preprocess(make_image(np.zeros((4, 5, 6))), np.zeros((4, 5, 6), np.uint8), make_plan(use_mask=True))
    assert result.image.shape == (1, 4, 5, 6) and not result.image.any()
    assert (result.labels == -1).all()


def test_background_outside_the_mask_becomes_minus_one_and_labels_stay():
    array, labels = np.zeros((5, 6, 7)), np.zeros((5, 6, 7), np.uint8)
    array[1:4, 1:5, 1:6] = volume(1, 2, (3, 4, 5))
    array[1, 1, 1], array[2, 2, 2], array[1, 1, 2] = 0, 0, 0  # corner, enclosed hole, labelled corner
    labels[1, 1, 2], labels[2, 3, 3] = 2, 1
    result = preprocess(make_image(array), labels, make_plan())
    assert result.properties.box == ((1, 4), (1, 5), (1, 6))
    expected = labels[1:4, 1:5, 1:6].astype(int)
    expected[0, 0, 0] = -1
    assert np.array_equal(result.labels, expected)


def test_masked_statistics_are_the_same_with_and_without_labels():
    array = volume(1, 9, (5, 6, 7))
    array[:2, :3] = 0
    plan = make_plan(use_mask=True)
    with_labels = preprocess(make_image(array), np.zeros(array.shape, np.uint8), plan)
    assert np.array_equal(with_labels.image, preprocess(make_image(array), None, plan).image)
    assert preprocess(make_image(array), None, plan).labels is None


def test_input_is_left_as_it_is():
    image = make_image(volume())
    before = image.array.copy()
    preprocess(image, None, make_plan())
    assert np.array_equal(image.array, before)


def test_transpose_spacing_and_shape_go_together():
    image = make_image(volume(shape=(10, 12, 14)), spacing=(1.0, 2.0, 5.0))
    result = preprocess(image, None, make_plan(spacing=(2.5, 1.0, 1.0), transpose=(2, 0, 1)))
    assert result.image.shape == (1, 28, 10, 24)
    assert result.properties.shape_before_cropping == (14, 10, 12)
    flat = preprocess(image, None, make_plan(spacing=(None, 1.0, 1.0), transpose=(2, 0, 1)))
    assert flat.image.shape == (1, 14, 10, 24)


def test_wrong_channels_and_shapes_are_refused():
    with pytest.raises(ImageError, match="1 channel"):
        plan = PreprocessingPlan((1.0, 1.0, 1.0), (0, 1, 2), ("none",) * 2, (False,) * 2, (None,) * 2)
        preprocess(make_image(volume()), None, plan)
    with pytest.raises(ImageError, match="label map's shape"):
        preprocess(make_image(volume()), np.zeros((1, 2, 3), np.uint8), make_plan())


def test_plan_survives_json_and_names_its_folder_by_what_decides_the_arrays():
    plan = make_plan("ct", spacing=(None, 0.7, 0.7), intensities={**CT, "median": 1.0})
    assert PreprocessingPlan.from_json(plan.to_json()) == plan
    assert plan.identifier().startswith("ownx0.7x0.7mm_ct_")
    assert (
        make_plan("ct", spacing=(None, 0.7, 0.7), intensities={**CT, "median": 2.0}).identifier() == plan.identifier()
    )
    others = [
        make_plan("ct", spacing=(None, 0.7, 0.7001), intensities=CT),
        make_plan("ct", spacing=(None, 0.7, 0.7), intensities={**CT, "mean": 51.0}),
        make_plan("ct", spacing=(None, 0.7, 0.7), intensities=CT, transpose=(1, 0, 2)),
        make_plan("none", spacing=(None, 0.7, 0.7)),
    ]
    assert len({plan.identifier(), *(other.identifier() for other in others)}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalization": ["zscores"]}, "zscores"),
        ({"normalization": ["ct"]}, "CT normalization needs"),
        ({"use_mask": []}, "one entry a channel"),
        ({"transpose": [0, 0, 1]}, "no order"),
        ({"spacing": [1, 2]}, "unusable"),
        ({"intensities": None}, "unusable"),
    ],
)
def test_unusable_plans_are_refused(change, message):
    with pytest.raises(PlanError, match=message):
        PreprocessingPlan.from_json(make_plan().to_json() | change)
