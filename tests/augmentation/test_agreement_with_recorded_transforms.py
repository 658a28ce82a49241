import numpy as np
import pytest
import torch

from segplan.augmentation import Box3, Contrast, Gamma, GaussianBlur, LowResolution
from segplan.augmentation.blur import BlurParams
from segplan.augmentation.brightness import FactorParams
from segplan.augmentation.gamma import GammaParams
from segplan.augmentation.low_resolution import LowResolutionParams
from segplan.augmentation.spatial import SpatialParams, cut_patch

PATCH = (16, 20, 18)
SPATIAL = {
    "spatial_none": (PATCH, None),
    "spatial_rot(.3,-.2,.45)": (PATCH, SpatialParams((0.3, -0.2, 0.45), 1.0)),
    "spatial_rot(.3,-.2,.45)_scale1.3": (PATCH, SpatialParams((0.3, -0.2, 0.45), 1.3)),
    "spatial_scale0.75": (PATCH, SpatialParams((0.0, 0.0, 0.0), 0.75)),
    "dummy2d_rot0.6_scale1.1": ((20, 20, 18), SpatialParams((0.6,), 1.1)),
}
INTENSITY = {
    **{f"blur_{sigma}": (GaussianBlur(), BlurParams(((sigma,) * 3,))) for sigma in (0.5, 0.75, 1.0)},
    **{f"contrast_{factor}": (Contrast(), FactorParams((factor,))) for factor in (0.75, 1.25)},
    **{f"gamma_{gamma}_inv0": (Gamma(), GammaParams((gamma,))) for gamma in (0.7, 1.5)},
    **{f"gamma_{gamma}_inv1": (Gamma(invert=True), GammaParams((gamma,))) for gamma in (0.7, 1.5)},
    "lowres_0.6": (LowResolution(), LowResolutionParams(((0.6, 0.6, 0.6),))),
    "lowres_0.6_ignore0": (LowResolution(), LowResolutionParams(((1.0, 0.6, 0.6),))),
}


def test_every_recorded_transform_is_tested(recorded):
    names = {key.split("|")[0] for key in recorded} - {"image", "labels"}
    assert names == {*SPATIAL, *INTENSITY}


@pytest.mark.parametrize("name", SPATIAL)
def test_spatial_transform_gives_the_recorded_image_and_labels(recorded, name):
    patch_size, params = SPATIAL[name]
    image, labels = recorded["image"], recorded["labels"]
    warped, voted = cut_patch(image, labels, Box3((0, 0, 0), image.shape[1:]), patch_size, params)
    np.testing.assert_allclose(warped.numpy(), recorded[f"{name}|image"], atol=2e-6)
    np.testing.assert_array_equal(voted.numpy(), recorded[f"{name}|labels"])


@pytest.mark.parametrize("name", INTENSITY)
def test_intensity_transform_gives_the_recorded_image(recorded, name):
    transform, params = INTENSITY[name]
    image, labels = torch.tensor(recorded["image"][:1]), torch.from_numpy(recorded["labels"])
    result, same_labels = transform.apply(image, labels, params)
    np.testing.assert_allclose(result.numpy(), recorded[f"{name}|image"], atol=5e-7)
    assert same_labels is labels
