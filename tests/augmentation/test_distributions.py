"""Parameters and patches are distributed as those of nnU-Net's own augmentation, as recorded in tests/data."""

import numpy as np
import pytest
from groups import group
from scipy import stats

from segplan.augmentation import Context, build_pipeline
from segplan.augmentation.spatial import SpatialParams

DATA = "distributions.npz"
SAMPLES = 500
RECORDED_PARAMETERS = {
    "noise_std": ("noise", lambda p: [p.std]),
    "blur_sigma": ("blur", lambda p: [sigma for channel in p.sigmas if channel for sigma in channel]),
    "brightness_factor": ("brightness", lambda p: p.factors),
    "contrast_factor": ("contrast", lambda p: p.factors),
    "low_resolution_zoom": ("low_resolution", lambda p: [zooms[0] for zooms in p.zooms if zooms]),
    "gamma": ("gamma", lambda p: p.gammas),
    "gamma_inverted": ("gamma_inverted", lambda p: p.gammas),
    "mirrored_axes": ("mirror", lambda p: [len(p.axes)]),
    "spatial_scale": ("spatial", lambda p: [np.cbrt(np.linalg.det(p.matrix()))]),
    "spatial_turn": ("spatial", lambda p: [np.trace(p.matrix()) / np.cbrt(np.linalg.det(p.matrix()))]),
}


def p_value(ours, theirs):
    """Of the Kolmogorov-Smirnov test; rounded, so that values that many samples share stay one value."""
    return stats.ks_2samp(np.round(ours, 4), np.round(theirs, 4)).pvalue


@pytest.fixture(scope="module")
def reference(data_folder):
    with np.load(data_folder / DATA) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline(group("default"), (16, 16, 16), (False, False))


def statistics(image, labels):
    first = image[0].astype(np.float64)
    return {
        "mean": first.mean(),
        "std": first.std(),
        "min": first.min(),
        "max": first.max(),
        "skewness": ((first - first.mean()) ** 3).mean() / first.std() ** 3,
        "roughness_z": np.abs(np.diff(first, axis=0)).mean(),
        "roughness_x": np.abs(np.diff(first, axis=2)).mean(),
        "second_channel_std": image[1].astype(np.float64).std(),
        "empty": (first == 0).mean(),
        "label_1": (labels == 1).mean(),
        "label_2": (labels == 2).mean(),
        "label_edges": (np.diff(labels.astype(np.int16), axis=3) != 0).mean(),
        "corner": first[0, 0, 0],
    }


@pytest.fixture(scope="module")
def patches(reference, pipeline):
    image, labels = reference["image"].astype(np.float32) / 32, reference["labels"].astype(np.int16)
    rng = np.random.default_rng(0)
    made = [pipeline.apply(image, labels, pipeline.sample(rng)) for _ in range(SAMPLES)]
    rows = [statistics(patch.numpy(), patch_labels.numpy()) for patch, patch_labels in made]
    return {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}


def test_everything_recorded_is_compared(reference, patches):
    assert {key.removeprefix("patch|") for key in reference if key.startswith("patch|")} == set(patches)
    parameters = {key.removeprefix("param|") for key in reference if key.startswith("param|")}
    assert parameters == {*RECORDED_PARAMETERS, "spatial_share"}


@pytest.mark.parametrize("name", RECORDED_PARAMETERS)
def test_parameters_are_distributed_as_nnunets(reference, pipeline, name):
    transform_name, values_of = RECORDED_PARAMETERS[name]
    transform = {"spatial": pipeline.spatial, **dict(pipeline.transforms)}[transform_name]
    if name not in ("mirrored_axes", "spatial_scale", "spatial_turn"):  # those are recorded with their probability
        transform = type(transform)(**{**vars(transform), "probability": 1.0})
    rng = np.random.default_rng(11)
    drawn = [transform.sample(rng, Context(2, (16, 16, 16))) for _ in range(4000)]
    if name == "mirrored_axes":
        ours = [len(params.axes) if params else 0 for params in drawn]
    else:
        ours = [value for params in drawn if params is not None for value in values_of(params)]
    assert p_value(ours, reference[f"param|{name}"]) > 1e-3


def test_patches_are_turned_or_scaled_as_often_as_nnunets(reference, pipeline):
    rng = np.random.default_rng(5)
    drawn = [pipeline.spatial.sample(rng, pipeline.context) for _ in range(4000)]
    ours = sum(isinstance(params, SpatialParams) for params in drawn)
    theirs = reference["param|spatial_share"]
    table = [[ours, len(drawn) - ours], [theirs.sum(), len(theirs) - theirs.sum()]]
    assert stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize(
    "name",
    [
        "mean",
        "std",
        "min",
        "max",
        "skewness",
        "roughness_z",
        "roughness_x",
        "second_channel_std",
        "empty",
        "label_1",
        "label_2",
        "label_edges",
        "corner",
    ],
)
def test_augmented_patches_are_distributed_as_nnunets(reference, patches, name):
    assert p_value(patches[name], reference[f"patch|{name}"]) > 1e-3


def test_comparison_would_notice_another_distribution(reference, patches):
    assert p_value(patches["std"] * 1.03, reference["patch|std"]) < 1e-3
    assert p_value(patches["roughness_x"] * 1.1, reference["patch|roughness_x"]) < 1e-3
