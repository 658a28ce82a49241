"""The order and averages of STU-Net's own program, written out plainly."""

import itertools

import numpy as np
import pytest
import torch

from segplan.errors import ConfigError
from segplan.inference.image_kinds import image_from_array
from segplan.inference.resampled_first import preprocess_resampled_first
from segplan.inference.settings import InferenceSettings
from segplan.inference.tiled import Tiling, sliding_window
from segplan.inference.tiles import gaussian_weights, tile_starts
from segplan.preprocessing import PreprocessingPlan, preprocess


def test_statistics_are_those_of_the_resampled_image():
    plan = PreprocessingPlan((1.5, 1.5, 1.5), (0, 1, 2), ("zscore",), (True,), (None,))
    array = np.random.default_rng(0).gamma(2.0, 50.0, (1, 12, 20, 16)).astype(np.float32)
    image = image_from_array(array, (3.0, 1.0, 1.0))
    ours = preprocess_resampled_first(image, plan).image
    assert ours.mean() == pytest.approx(0, abs=1e-5)
    assert ours.std() == pytest.approx(1, abs=1e-5)
    other = preprocess(image, None, plan).image
    assert other.std() < 0.9  # interpolation smooths after the normalisation
    np.testing.assert_allclose((other - other.mean()) / other.std(), ours, atol=1e-4)


def test_softmax_is_taken_before_mirrors_and_tiles_are_averaged():
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False)
    network.weight.mul_(8)
    image, patch = torch.randn(1, 12, 10, 8), (8, 8, 8)
    gaussian = gaussian_weights(patch)
    total, weights = np.zeros((3, 12, 10, 8)), np.zeros((12, 10, 8))
    corners = itertools.product(*(tile_starts(size, 8, 0.5) for size in image.shape[1:]))
    for z, y, x in corners:
        region = (slice(z, z + 8), slice(y, y + 8), slice(x, x + 8))
        tile = image[(slice(None), *region)][None]
        mirrored = []
        for axes in itertools.chain.from_iterable(itertools.combinations((2, 3, 4), count) for count in range(4)):
            mirrored.append(network(tile.flip(axes)).softmax(1).flip(axes)[0].numpy())
        total[(slice(None), *region)] += np.mean(mirrored, axis=0) * gaussian
        weights[region] += gaussian
    expected = total / weights
    tiling = Tiling(patch, 3, mirror_axes=(0, 1, 2), probabilities=True)
    np.testing.assert_allclose(sliding_window(network, image, tiling).numpy(), expected, atol=2e-6)


def test_the_model_decides_unless_a_mode_is_asked_for():
    assert InferenceSettings().mode_for({}) == "nnunet"
    assert InferenceSettings().mode_for({"inference_mode": "stunet_v1"}) == "stunet_v1"
    assert InferenceSettings(mode="nnunet").mode_for({"inference_mode": "stunet_v1"}) == "nnunet"
    with pytest.raises(ConfigError, match=r"inference\.mode"):
        InferenceSettings(mode="v1")
    with pytest.raises(ConfigError, match="float32"):
        InferenceSettings(mode="stunet_v1", accumulator="float16")
