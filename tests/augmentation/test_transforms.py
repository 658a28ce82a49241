import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from segplan.augmentation import (
    Brightness,
    Context,
    Contrast,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    LowResolution,
    Mirror,
)
from segplan.augmentation.blur import blur
from segplan.augmentation.low_resolution import low_resolution
from segplan.augmentation.mirror import MirrorParams
from segplan.augmentation.noise import gaussian_noise_
from segplan.errors import ConfigError

ALWAYS = [
    GaussianNoise(probability=1),
    GaussianBlur(probability=1, channel_probability=1),
    Brightness(probability=1),
    Contrast(probability=1),
    LowResolution(probability=1, channel_probability=1),
    Gamma(probability=1),
    Gamma(probability=1, invert=True),
    Mirror(probability=1),
]
PATCHES = [(2, 12, 14, 10), (3, 20, 16)]


def draw(transform, times):
    rng = np.random.default_rng(1)
    return [transform.sample(rng, Context(1, (8, 8, 8))) for _ in range(times)]


@pytest.mark.parametrize("transform", ALWAYS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("shape", PATCHES)
def test_transform_is_pure_and_can_be_replayed(transform, shape):
    image, labels = torch.randn(shape), torch.randint(-1, 3, (1, *shape[1:]), dtype=torch.int16)
    params = transform.sample(np.random.default_rng(5), Context(shape[0], shape[1:]))
    torch.manual_seed(0)
    first, first_labels = transform.apply(image.clone(), labels.clone(), params)
    torch.manual_seed(1)
    second, second_labels = transform.apply(image.clone(), labels.clone(), params)
    assert torch.equal(first, second)
    assert torch.equal(first_labels, second_labels)
    assert not torch.equal(first, image)
    assert first.shape == image.shape
    assert first.dtype == torch.float32


@pytest.mark.parametrize(
    ("transform", "share"),
    [
        (GaussianNoise(), 0.1),
        (GaussianBlur(), 0.2 * 0.5),  # of one channel
        (Brightness(), 0.15),
        (Contrast(), 0.15),
        (LowResolution(), 0.25 * 0.5),
        (Gamma(), 0.3),
        (Mirror(), 1 - 0.5**3),  # some axis
    ],
    ids=lambda value: type(value).__name__,
)
def test_share_of_samples_is_the_probability(transform, share):
    acting = sum(params is not None for params in draw(transform, 4000))
    assert acting / 4000 == pytest.approx(share, abs=0.025)


@pytest.mark.parametrize(
    ("values", "distribution"),
    [
        (lambda: [p.std for p in draw(GaussianNoise(1), 1500)], stats.uniform(0, 0.1)),
        (lambda: [p.sigmas[0][2] for p in draw(GaussianBlur(1, 1), 1500)], stats.uniform(0.5, 0.5)),
        (lambda: [p.zooms[0][0] for p in draw(LowResolution(1, 1), 1500)], stats.uniform(0.5, 0.5)),
    ],
)
def test_parameters_are_uniform_over_their_range(values, distribution):
    assert stats.kstest(values(), distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (lambda: [p.factors[0] for p in draw(Brightness(1), 2000)], 0.75, 1.25),
        (lambda: [p.factors[0] for p in draw(Contrast(1), 2000)], 0.75, 1.25),
        (lambda: [p.gammas[0] for p in draw(Gamma(1), 2000)], 0.7, 1.5),
    ],
)
def test_factors_lie_below_one_as_often_as_above_and_uniformly_on_both_sides(values, low, high):
    drawn = np.array(values())
    assert (drawn < 1).mean() == pytest.approx(0.5, abs=0.04)
    assert stats.kstest(drawn[drawn < 1], stats.uniform(low, 1 - low).cdf).pvalue > 0.01
    assert stats.kstest(drawn[drawn >= 1], stats.uniform(1, high - 1).cdf).pvalue > 0.01


def test_noise_field_is_normal_independent_of_global_seed_and_differs_between_channels():
    noisy = gaussian_noise_(torch.zeros(2, 24, 24, 24), 0.1, seed=3)
    assert stats.kstest(noisy.flatten().numpy(), stats.norm(0, 0.1).cdf).pvalue > 0.01
    assert abs(np.corrcoef(noisy[0].flatten(), noisy[1].flatten())[0, 1]) < 0.03
    assert not torch.equal(noisy, gaussian_noise_(torch.zeros(2, 24, 24, 24), 0.1, seed=4))


@pytest.mark.parametrize(("sigma", "radius"), [(0.5, 1), (0.8, 2), (1.0, 3)])
@pytest.mark.parametrize("shape", [(9, 8, 11), (2, 12), (1, 9, 9)])
def test_blur_equals_scipys_correlation_with_the_truncated_kernel(sigma, radius, shape):
    volume = torch.randn(shape)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    expected = volume.numpy().astype(np.float64)
    for axis in range(len(shape)):
        expected = ndimage.correlate1d(expected, kernel / kernel.sum(), axis, mode="mirror")
    np.testing.assert_allclose(blur(volume, (sigma,) * len(shape)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(13, 10, 17), (16, 31)])
@pytest.mark.parametrize("zoom", [0.5, 0.77, 1.0])
def test_low_resolution_equals_torchs_own_resizing(shape, zoom):
    volume = torch.randn(shape)
    small = torch.nn.functional.interpolate(volume[None, None], [round(zoom * n) for n in shape], mode="nearest-exact")
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    expected = torch.nn.functional.interpolate(small, shape, mode=mode)[0, 0]
    torch.testing.assert_close(low_resolution(volume, (zoom,) * len(shape)), expected, atol=2e-6, rtol=0)


def test_low_resolution_spares_axis_0_in_dummy_2d():
    params = LowResolution(1, 1).sample(np.random.default_rng(0), Context(1, (8, 32, 32), dummy_2d=True))
    assert params.zooms[0][0] == 1
    assert params.zooms[0][1] == params.zooms[0][2] < 1


@pytest.mark.parametrize("invert", [False, True])
def test_gamma_keeps_mean_and_deviation_and_survives_a_constant_channel(invert):
    image = torch.stack([torch.randn(10, 10, 10) * 3 + 1, torch.full((10, 10, 10), 2.5)])
    transform = Gamma(probability=1, invert=invert)
    bent, _ = transform.apply(
        image.clone(), torch.zeros(1), transform.sample(np.random.default_rng(0), Context(2, (10, 10, 10)))
    )
    assert bent[0].mean() == pytest.approx(image[0].mean().item(), abs=1e-4)
    assert bent[0].std() == pytest.approx(image[0].std().item(), rel=1e-4)
    torch.testing.assert_close(bent[1], image[1])


def test_mirror_flips_image_and_labels_alike():
    image, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 3, (1, 4, 5, 6), dtype=torch.int16)
    flipped, flipped_labels = Mirror().apply(image.clone(), labels.clone(), MirrorParams((0, 2)))
    np.testing.assert_array_equal(flipped.numpy(), image.numpy()[:, ::-1, :, ::-1])
    np.testing.assert_array_equal(flipped_labels.numpy(), labels.numpy()[:, ::-1, :, ::-1])


def test_mirror_draws_only_allowed_axes_each_half_of_the_time():
    drawn = [params.axes if params else () for params in draw(Mirror(axes=(0, 1)), 2000)]
    assert {axis for axes in drawn for axis in axes} == {0, 1}
    for axis in (0, 1):
        assert sum(axis in axes for axes in drawn) / 2000 == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: GaussianNoise(probability=-0.1), "noise.probability"),
        (lambda: GaussianBlur(sigma=(1.0, 0.5)), "blur.sigma"),
        (lambda: Gamma(gamma=(0.0, 1.5)), "gamma.gamma"),
        (lambda: Mirror(axes=(0, 3)), "mirror.axes"),
        (lambda: Mirror(axes=(2,)).resolved_axes(2), "mirror.axes"),
    ],
)
def test_impossible_numbers_are_refused_by_name(make, where):
    with pytest.raises(ConfigError, match=where):
        make()
