import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from segplan.augmentation import (
    BiasField,
    BlankRectangles,
    BrightnessGradient,
    BrightnessShift,
    Context,
    Contrast,
    Gamma,
    GaussianBlur,
    LocalGamma,
    MedianFilter,
    OneOf,
    Rotate90,
    Sharpen,
    Spatial,
    Transpose,
)
from segplan.augmentation.blank_rectangles import BlankParams
from segplan.augmentation.brightness import FactorParams
from segplan.augmentation.brightness_gradient import GradientParams
from segplan.augmentation.bump import Bump, bump_field
from segplan.augmentation.local_gamma import LocalGammaParams
from segplan.augmentation.median_filter import MedianParams, median
from segplan.augmentation.rotate90 import Rotate90Params
from segplan.augmentation.sharpen import SharpenParams
from segplan.augmentation.spatial import SpatialParams
from segplan.augmentation.transpose import TransposeParams
from segplan.errors import ConfigError

ALWAYS = [
    Rotate90(probability=1),
    Transpose(probability=1),
    MedianFilter(probability=1, channel_probability=1),
    BrightnessShift(probability=1, channel_probability=1),
    BlankRectangles(probability=1, channel_probability=1),
    BrightnessGradient(probability=1, channel_probability=1),
    LocalGamma(probability=1, channel_probability=1),
    Sharpen(probability=1, channel_probability=1),
    BiasField(probability=1),
    OneOf({"gamma": Gamma(probability=1)}),
]
NO_LABELS = torch.zeros(1, 1, 1, 1)


def draw(transform, times, context=None):
    rng = np.random.default_rng(1)
    return [transform.sample(rng, context or Context(1, (8, 8, 8))) for _ in range(times)]


@pytest.mark.parametrize("transform", ALWAYS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("shape", [(2, 12, 12, 12), (3, 16, 16)])
def test_transform_changes_the_patch_and_can_be_replayed(transform, shape):
    image, labels = torch.randn(shape), torch.randint(-1, 3, (1, *shape[1:]), dtype=torch.int16)
    params = next(drawn for drawn in draw(transform, 20, Context(shape[0], shape[1:])) if drawn is not None)
    first, first_labels = transform.apply(image.clone(), labels.clone(), params)
    second, second_labels = transform.apply(image.clone(), labels.clone(), params)
    assert torch.equal(first, second)
    assert torch.equal(first_labels, second_labels)
    assert not torch.equal(first, image)
    assert first.shape == image.shape
    turns = isinstance(transform, Rotate90 | Transpose)
    assert torch.equal(first_labels, labels) != turns


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_numpys_for_image_and_labels(axes, turns):
    image, labels = torch.randn(2, 6, 6, 6), torch.randint(0, 3, (1, 6, 6, 6), dtype=torch.int16)
    turned, turned_labels = Rotate90().apply(image.clone(), labels.clone(), Rotate90Params(axes, turns))
    for channel, expected in ((turned[1], image[1]), (turned_labels[0], labels[0])):
        np.testing.assert_array_equal(channel.numpy(), np.rot90(expected.numpy(), turns, axes))


def test_turns_and_permutations_keep_to_axes_of_one_length():
    turns = draw(Rotate90(1), 400, Context(1, (8, 10, 8)))
    assert {drawn.axes for drawn in turns if drawn} == {(0, 2)}
    assert {drawn.turns for drawn in turns if drawn} == {1, 2, 3}
    assert sum(drawn is None for drawn in turns) / 400 == pytest.approx(0.25, abs=0.07)
    orders = draw(Transpose(1), 400, Context(1, (8, 10, 8)))
    assert {drawn.order for drawn in orders if drawn} == {(2, 1, 0)}
    cube = {drawn.order for drawn in draw(Transpose(1), 400) if drawn}
    assert cube == set(itertools.permutations(range(3))) - {(0, 1, 2)}


@pytest.mark.parametrize("transform", [Rotate90(1), Transpose(1)])
def test_turns_and_permutations_stay_in_the_plane_in_dummy_2d_and_leave_unequal_axes_alone(transform):
    assert not any(draw(transform, 50, Context(1, (6, 8, 10))))
    flat = [drawn for drawn in draw(transform, 50, Context(1, (8, 8, 8), dummy_2d=True)) if drawn]
    assert {getattr(drawn, "axes", (1, 2)) for drawn in flat} == {(1, 2)}
    assert {getattr(drawn, "order", (0,))[0] for drawn in flat} == {0}


def test_transposing_moves_image_and_labels_alike():
    image, labels = torch.randn(1, 5, 5, 5), torch.randint(0, 3, (1, 5, 5, 5), dtype=torch.int16)
    moved, moved_labels = Transpose().apply(image.clone(), labels.clone(), TransposeParams((2, 0, 1)))
    assert torch.equal(moved[0], image[0].permute(2, 0, 1))
    assert torch.equal(moved_labels[0], labels[0].permute(2, 0, 1))


@pytest.mark.parametrize("size", [2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(9, 8, 11), (12, 10)])
def test_median_filter_equals_scipys(size, shape):
    volume = torch.randn(shape)
    expected = ndimage.median_filter(volume.numpy(), size, mode="reflect")
    np.testing.assert_array_equal(median(volume, size).numpy(), expected)
    step = float(volume.max() - volume.min()) / 4095
    filtered, _ = MedianFilter().apply(volume.clone()[None], NO_LABELS, MedianParams((size,)))
    np.testing.assert_allclose(filtered[0].numpy(), expected, atol=0.51 * step)


def test_median_filter_survives_a_constant_channel_and_spares_channels_that_are_not_chosen():
    image = torch.stack([torch.full((6, 6, 6), 2.5), torch.randn(6, 6, 6)])
    filtered, _ = MedianFilter().apply(image.clone(), NO_LABELS, MedianParams((3, 0)))
    assert torch.equal(filtered, image)


def test_sharpening_adds_the_negative_laplacian():
    image = torch.randn(1, 7, 6, 8)
    laplacian = ndimage.laplace(image[0].numpy(), mode="nearest")
    sharp, _ = Sharpen().apply(image.clone(), NO_LABELS, SharpenParams((0.4,)))
    np.testing.assert_allclose(sharp[0].numpy(), image[0].numpy() - 0.4 * laplacian, atol=1e-5)


def test_bump_is_a_gaussian_scaled_to_its_range_in_the_patch():
    field = bump_field(Bump((3.0, 20.0), (4.0, 9.0)), torch.zeros(12, 16)).numpy().astype(float)
    z, y = np.ogrid[:12, :16]
    gaussian = np.exp(-0.5 * ((z - 3) / 4) ** 2 - 0.5 * ((y - 20) / 9) ** 2)
    gaussian = gaussian / gaussian.max()
    np.testing.assert_allclose(field, (gaussian - gaussian.min()) / (1 - gaussian.min()), atol=1e-6)


def test_brightness_gradient_adds_the_bump():
    bump = Bump((2.0, 2.0, 9.0), (3.0, 3.0, 3.0))
    image = torch.randn(2, 8, 8, 8)
    lit, _ = BrightnessGradient().apply(image.clone(), NO_LABELS, GradientParams(((bump, -2.5), None)))
    torch.testing.assert_close(lit[0], image[0] - 2.5 * bump_field(bump, image[0]))
    assert torch.equal(lit[1], image[1])


def test_local_gamma_bends_at_the_peak_and_not_far_away():
    bump = Bump((0.0, 0.0, 0.0), (1.5, 1.5, 1.5))
    image = torch.rand(1, 16, 16, 16)
    image[0, 8, 8, 8], image[0, 8, 8, 9] = 0, 1
    bent, _ = LocalGamma().apply(image.clone(), NO_LABELS, LocalGammaParams(((bump, 3.0),)))
    weight = bump_field(bump, image[0])
    torch.testing.assert_close(bent[0], (1 - weight) * image[0] + weight * image[0] ** 3, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(bent[0, 12:], image[0, 12:], atol=1e-6, rtol=0)


def test_blank_rectangles_hold_their_mean_and_spare_the_rest():
    image = torch.randn(2, 8, 8, 8)
    params = BlankParams((((((1, 2, 3), (2, 3, 4)),)), ()))
    blank, _ = BlankRectangles().apply(image.clone(), NO_LABELS, params)
    part = (0, slice(1, 3), slice(2, 5), slice(3, 7))
    torch.testing.assert_close(blank[part], image[part].mean().expand(2, 3, 4))
    blank[part] = image[part]
    assert torch.equal(blank, image)


def test_rectangles_lie_in_the_patch_and_their_sizes_in_range():
    boxes = [box for drawn in draw(BlankRectangles(1, 1), 200, Context(1, (30, 20, 9))) for box in drawn.boxes[0]]
    lower, size = (np.array([box[i] for box in boxes]) for i in (0, 1))
    assert (lower >= 0).all()
    assert (lower + size <= (30, 20, 9)).all()
    assert size.min(0).tolist() == [3, 2, 1]
    assert size.max(0).tolist() == [10, 6, 3]
    counts = {len(drawn.boxes[0]) for drawn in draw(BlankRectangles(1, 1), 200)}
    assert counts == {1, 2, 3, 4}


def test_bias_field_is_a_smooth_factor_above_the_minimum_and_the_same_for_all_channels():
    image = torch.stack([torch.full((9, 9, 9), 2.0), torch.full((9, 9, 9), 1.0)])
    image[:, 0, 0, 0] = -1
    transform = BiasField(probability=1)
    biased, _ = transform.apply(image.clone(), NO_LABELS, draw(transform, 1)[0])
    factor = (biased + 1) / 3
    torch.testing.assert_close(factor[0, 1:], (biased[1, 1:] + 1) / 2, atol=1e-5, rtol=1e-5)
    assert biased[0, 0, 0, 0] == -1
    log = factor[0, 1:].log().numpy()
    np.testing.assert_allclose(np.diff(log, 4, axis=2), 0, atol=1e-4)  # a polynomial of order 3
    assert np.abs(log).max() > 0.05


def test_one_of_several_acts_each_as_often_with_its_own_probability():
    transform = OneOf(
        {"gamma": Gamma(probability=0.5), "blur": GaussianBlur(probability=1, channel_probability=1)}, 0.8
    )
    names = [drawn.name if drawn else None for drawn in draw(transform, 4000)]
    assert names.count("gamma") / 4000 == pytest.approx(0.2, abs=0.03)
    assert names.count("blur") / 4000 == pytest.approx(0.4, abs=0.03)


def test_shift_is_normal_and_spares_channels_that_are_not_chosen():
    drawn = draw(BrightnessShift(1), 1000, Context(2, (4, 4)))
    acting = [shift for params in drawn if params for shift in params.shifts if shift]
    assert len(acting) / 2000 == pytest.approx(0.5, abs=0.05)
    assert stats.kstest(acting, stats.norm(0, 0.5).cdf).pvalue > 0.01


def test_contrast_may_leave_the_old_range_and_spare_channels():
    image = torch.randn(1, 10, 10, 10)
    free = Contrast(preserve_range=False)
    stretched, _ = free.apply(image.clone(), NO_LABELS, FactorParams((2.0,)))
    torch.testing.assert_close(stretched, (image - image.mean()) * 2 + image.mean())
    drawn = draw(Contrast(1, channel_probability=0.5), 1000, Context(2, (4, 4)))
    factors = [factor for params in drawn if params for factor in params.factors]
    assert 1 - sum(factor != 1 for factor in factors) / 2000 == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("transform", [Sharpen, BrightnessShift, Contrast])
def test_where_no_channel_is_chosen_nothing_is_said_to_act(transform):
    drawn = draw(transform(probability=1, channel_probability=0.5), 200, Context(2, (4, 4)))
    assert 0.1 < sum(params is None for params in drawn) / 200 < 0.4


def test_blur_draws_one_width_for_all_axes_if_asked_to():
    widths = [params.sigmas[0] for params in draw(GaussianBlur(1, 1, same_for_axes=True), 50)]
    assert all(len(set(sigmas)) == 1 for sigmas in widths)
    assert len(set(widths)) > 1


def test_spatial_draws_axes_and_scales_apart_if_asked_to():
    strong = Spatial(rotation_probability=1, axis_probability=0.5, scaling_probability=1, scale_per_axis=True)
    drawn = draw(strong, 600)
    turned = np.array([params.angles for params in drawn]) != 0
    assert turned.mean(0) == pytest.approx([0.5] * 3, abs=0.08)
    assert all(len(set(params.scale)) == 3 for params in drawn)
    flat = draw(strong, 5, Context(1, (4, 20, 20), dummy_2d=True))
    assert all(len(params.scale) == 2 for params in flat)


def test_each_axis_has_its_own_scale():
    assert SpatialParams((0.0, 0.0, 0.0), (1.0, 2.0, 3.0)).matrix().diagonal().tolist() == [1, 2, 3]
    assert SpatialParams((0.0,), (2.0, 3.0)).matrix().diagonal().tolist() == [1, 2, 3]
    turned = SpatialParams((0.3, 0.2, 0.1), 1.3).matrix()
    np.testing.assert_allclose(turned, SpatialParams((0.3, 0.2, 0.1), (1.3, 1.3, 1.3)).matrix())


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: BlankRectangles(size=(0.5, 1.5)), "blank_rectangles.size"),
        (lambda: MedianFilter(size=(7, 2)), "median_filter.size"),
        (lambda: LocalGamma(brighten=(0.0, 0.8)), "local_gamma.brighten"),
        (OneOf, "one_of.transforms"),
        (lambda: BrightnessShift(std=-1.0), "brightness_shift.std"),
        (lambda: BrightnessShift(std=math.nan), "brightness_shift.std"),
        (lambda: Gamma(gamma=(0.7, math.inf)), "gamma.gamma"),
        (lambda: OneOf(5), "one_of.transforms"),
    ],
)
def test_impossible_numbers_are_refused_by_name(make, where):
    with pytest.raises(ConfigError, match=where):
        make()
