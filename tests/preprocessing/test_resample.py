import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_resampling import margin, slice_by_slice, vote, zoom

from segplan.errors import ImageError, PlanError
from segplan.imaging import Geometry, Image
from segplan.preprocessing import (
    PreprocessingPlan,
    preprocess,
    resample_image,
    resample_labels,
    resampled_shape,
    separate_axis,
)

ISOTROPIC = (1.0, 1.0, 1.0)
SIZES = [
    ((20, 31, 17), (33, 20, 40)),
    ((17, 13, 11), (9, 6, 5)),
    ((5, 6, 7), (15, 18, 14)),
    ((1, 5, 3), (1, 9, 2)),
    ((2, 3, 4), (7, 1, 9)),
    ((9, 40, 33), (9, 41, 33)),
    ((1, 1, 1), (3, 2, 4)),
]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


def blobs(shape, seed=0, labels=6):
    """Random label maps of -1 to labels - 2, coarse enough to have both uniform and mixed neighbourhoods."""
    coarse = np.random.default_rng(seed).integers(-1, labels - 1, [max(1, size // 3 + 1) for size in shape])
    fine = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    return fine[: shape[0], : shape[1], : shape[2]].astype(np.int16)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_image_equals_scipys_zoom_per_channel(old, new, order):
    image = noise((2, *old))
    result = resample_image(image, new, ISOTROPIC, ISOTROPIC, order)
    expected = np.stack([zoom(channel, new, order) for channel in image])
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() < 1e-6 * np.ptp(image)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_thick_slices_are_resampled_in_their_plane_and_picked(axis, factor, order):
    old, new = [12, 13, 14], [18, 10, 21]
    new[axis] = round(old[axis] * factor)
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.5
    image = noise((1, *old))
    result = resample_image(image, new, spacing, ISOTROPIC, order)
    expected = slice_by_slice(image[0], new, axis, lambda plane, shape: zoom(plane, shape, order))
    assert np.abs(result[0] - expected).max() < 1e-6 * np.ptp(image)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_labels_equal_the_largest_indicator(old, new):
    labels = blobs(old)
    assert np.array_equal(resample_labels(labels, new, ISOTROPIC, ISOTROPIC), vote(labels, new))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 18)] * 3), st.integers(0, 2**16))
def test_labels_equal_the_largest_indicator_for_any_size_and_every_voxel_its_own_label(old, new, seed):
    labels = np.random.default_rng(seed).integers(-1, 5, old).astype(np.int16)
    result, expected = resample_labels(labels, new, ISOTROPIC, ISOTROPIC), vote(labels, new)
    decided = margin(labels, new) > 1e-12  # otherwise rounding decides in scipy, in any way
    assert np.array_equal(result[decided], expected[decided])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_of_thick_slices_are_voted_in_their_plane(axis):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.5
    labels = blobs((12, 13, 14))
    expected = slice_by_slice(labels, (17, 19, 9), axis, vote)
    assert np.array_equal(resample_labels(labels, (17, 19, 9), spacing, ISOTROPIC), expected)


def test_exact_ties_go_to_the_nearest_label_or_else_to_the_smallest():
    two = np.array([[[5, 3]]], dtype=np.int16)
    assert resample_labels(two, (1, 1, 1), ISOTROPIC, ISOTROPIC).item() == 3  # the nearest of a half is the upper one
    four = np.array([[[9, 4], [7, 2]]], dtype=np.int16)
    assert resample_labels(four, (1, 1, 1), ISOTROPIC, ISOTROPIC).item() == 2
    third_is_nearest_but_loses = np.array([[[9, 4, 4], [9, 4, 7]], [[6, 9, 8], [3, 9, 9]]], dtype=np.int16)
    result = resample_labels(third_is_nearest_but_loses, (1, 1, 2), ISOTROPIC, ISOTROPIC)
    assert np.array_equal(result, vote(third_is_nearest_but_loses, (1, 1, 2)))


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.integers(1, 20)] * 3), st.integers(0, 2**16))
def test_output_stays_in_the_inputs_range(old, new, seed):
    image = noise((1, *old), seed)
    result = resample_image(image, new, ISOTROPIC, ISOTROPIC)
    assert image.min() <= result.min() and result.max() <= image.max()


def test_the_same_grid_gives_back_the_same_array():
    image, labels = noise((2, 4, 5, 6)), blobs((4, 5, 6))
    assert resample_image(image, (4, 5, 6), (5, 1, 1), (1, 1, 1)) is image
    assert resample_labels(labels, (4, 5, 6), (5, 1, 1), (1, 1, 1)) is labels


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([0.3, 1.0, 1.7, 5.0])] * 3),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_preprocessing_to_the_same_grid_only_turns_the_axes(shape, transpose, spacing, overwrite, seed):
    array = noise((2, *shape), seed)
    array[array == 0] = 1
    labels = np.random.default_rng(seed).integers(0, 300, shape)
    turned = tuple(spacing[axis] for axis in transpose)
    plan = PreprocessingPlan(turned, tuple(transpose), ("none",) * 2, (False,) * 2, (None,) * 2)
    geometry = Geometry(3, spacing[::-1], (0.0,) * 3, tuple(np.eye(3).ravel()))
    result = preprocess(Image(array.copy(), spacing, geometry), labels, plan, overwrite=overwrite)
    assert np.array_equal(result.image, array.transpose(0, *(1 + axis for axis in transpose)))
    assert np.array_equal(result.labels, labels.transpose(transpose))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("scheme", ["none", "zscore", "rescale_to_0_1"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 0.7, 0.8), (4.0, 0.7, 1.6)])
def test_overwriting_the_image_changes_nothing_but_the_image(transpose, scheme, spacing):
    array = noise((2, 12, 13, 14))
    array[:, :2] = array[:, :, :, -3:] = 0
    labels = blobs((12, 13, 14)) + 1
    plan = PreprocessingPlan(spacing, transpose, (scheme,) * 2, (True,) * 2, (None,) * 2)
    geometry = Geometry(3, (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    image = Image(array.copy(), (1.0, 1.0, 1.0), geometry)
    kept = preprocess(image, labels, plan)
    assert np.array_equal(image.array, array)
    overwritten = preprocess(image, labels, plan, overwrite=True)
    assert np.abs(overwritten.image - kept.image).max() < 1e-6 * np.ptp(kept.image)
    assert np.array_equal(overwritten.labels, kept.labels)
    assert overwritten.properties == kept.properties


@pytest.mark.parametrize(("high", "dtype"), [(127, np.int8), (128, np.int16)])
def test_labels_take_the_smallest_type_that_holds_them(high, dtype):
    labels = np.random.default_rng(0).integers(0, high + 1, (6, 7, 8)).astype(np.uint8)
    labels[0, 0, 0] = high
    plan = PreprocessingPlan((1.0, 0.7, 0.8), (0, 1, 2), ("none",), (False,), (None,))
    geometry = Geometry(3, (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    result = preprocess(Image(noise((1, 6, 7, 8)), (1.0,) * 3, geometry), labels, plan)
    assert result.labels.dtype == dtype
    assert np.array_equal(result.labels, vote(labels.astype(np.int16), result.labels.shape))


def kernel_results(seed):
    image = noise((1, 9, 10, 11), seed)
    resampled = resample_image(image, (12, 8, 15), ISOTROPIC, ISOTROPIC)
    return resampled.tobytes(), resample_labels(blobs((9, 10, 11), seed), (12, 8, 15), ISOTROPIC, ISOTROPIC).tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_kernels_give_the_same_in_processes_that_are_forked_and_spawned(method):
    """Loaded before a fork, and in threads at once, since they run without the interpreter lock."""
    seeds = range(4)
    expected = [kernel_results(seed) for seed in seeds]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(kernel_results, seeds)) == expected
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as processes:
        assert list(processes.map(kernel_results, seeds)) == expected


def test_a_smooth_function_comes_back_from_a_finer_grid():
    z, y, x = np.meshgrid(*[np.linspace(0, 2, size) for size in (24, 26, 28)], indexing="ij")
    image = (np.sin(z) * np.cos(y) + x).astype(np.float32)[None]
    fine = resample_image(image, (48, 52, 56), ISOTROPIC, (0.5, 0.5, 0.5))
    back = resample_image(fine, (24, 26, 28), (0.5, 0.5, 0.5), ISOTROPIC)
    assert np.abs(back - image)[:, 3:-3, 3:-3, 3:-3].max() < 1e-3


def test_strided_and_read_only_input_is_taken():
    image = np.broadcast_to(noise((1, 6, 5, 4)).transpose(0, 3, 2, 1), (1, 4, 5, 6))
    expected = zoom(image[0], (7, 8, 9), 3)
    assert np.abs(resample_image(image, (7, 8, 9), ISOTROPIC, ISOTROPIC)[0] - expected).max() < 1e-5
    labels = blobs((6, 5, 4)).transpose(2, 1, 0)
    labels.setflags(write=False)
    assert np.array_equal(resample_labels(labels, (7, 8, 9), ISOTROPIC, ISOTROPIC), vote(labels, (7, 8, 9)))


@pytest.mark.parametrize(
    ("current", "new", "expected"),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (1, 1, 1), None),  # the threshold is strict
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((1, 1, 4), (9, 1, 1), 2),  # the current spacing goes first
        ((1, 1, 1), (1, 9, 1), 1),
        ((3.1, 1, 2.9), (1, 1, 1), 0),  # only largest against smallest
        ((0.24, 1.25, 1.25), (1, 1, 1), None),  # two thick axes: none is separate
        ((0.24, 1.25, 1.25), (9, 1, 1), None),
        ((999, 1, 1), (999, 0.5, 0.5), 0),
    ],
)
def test_separate_axis(current, new, expected):
    assert separate_axis(current, new) == expected


def test_resampled_shape_rounds_half_to_even_and_never_to_nothing():
    assert resampled_shape((5, 7, 1), (0.5, 0.5, 0.4), (1, 1, 1)) == (2, 4, 1)


def test_labels_beyond_16_bits_are_refused():
    with pytest.raises(ImageError, match="16 bits"):
        resample_labels(np.full((2, 2, 2), 40_000, dtype=np.uint16), (3, 3, 3), ISOTROPIC, ISOTROPIC)


def test_kernels_work_where_no_compilation_cache_can_be_written(monkeypatch):
    from numba import types

    from segplan.preprocessing import kernels

    def refuse(*args, cache, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels.numba, "njit", refuse)
    assert kernels._compiled(types.int64)(len) is len


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, segplan.preprocessing; print([m for m in ('numba', 'torch', 'SimpleITK') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_compiling_is_told_from_loading(tmp_path):
    code = "import segplan.preprocessing.kernels as kernels; print(kernels.were_compiled())"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(2)]
    assert [run.stdout.strip() for run in runs] == ["True", "False"]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_label_maps_by_nearest_neighbour_take_the_voxel_that_holds_the_centre(before, after):
    labels = np.random.default_rng(1).integers(-1, 5, before).astype(np.int8)
    found = resample_labels(labels, after, ISOTROPIC, ISOTROPIC, nearest=True)
    # Exact in whole numbers: the centre (2 i + 1) / (2 n) of an output voxel lies in this input voxel.
    places = [(2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(before, after, strict=True)]
    np.testing.assert_array_equal(found, labels[np.ix_(*places)])


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 18)] * 3), st.integers(0, 2**16))
def test_an_ignored_label_wins_where_it_is_nearest_and_has_no_vote_elsewhere(old, new, seed):
    labels = np.random.default_rng(seed).choice([-1, 0, 1, 2, 9], old, p=[0.05, 0.15, 0.1, 0.1, 0.6]).astype(np.int16)
    result = resample_labels(labels, new, ISOTROPIC, ISOTROPIC, ignored=9)
    nearest = zoom(labels, new, 0)
    assert np.array_equal(result == 9, nearest == 9)
    values = [value for value in np.unique(labels) if value != 9]
    if values:
        scores = np.stack([zoom((labels == value).astype(np.float64), new, 1) for value in values])
        best, rest = scores.max(0), np.sort(scores, 0)[-2] if len(values) > 1 else -1
        decided = (best - rest > 1e-12) & (result != 9)
        assert np.array_equal(result[decided], np.array(values)[scores.argmax(0)][decided])


def test_a_plan_with_nearest_labels_has_a_store_of_its_own_and_other_plans_keep_theirs():
    known = {"spacing": [1, 1, 1], "transpose": [0, 1, 2], "normalization": ["zscore"], "use_mask": [False]}
    votes = PreprocessingPlan.from_json(known | {"intensities": [None]})
    nearest = PreprocessingPlan.from_json(known | {"intensities": [None], "label_resampling": "nearest"})
    assert "label_resampling" not in votes.to_json()
    assert nearest.identifier() != votes.identifier()
    assert PreprocessingPlan.from_json(nearest.to_json()) == nearest
    with pytest.raises(PlanError, match="Use one of votes, nearest, annotated"):
        PreprocessingPlan.from_json(known | {"intensities": [None], "label_resampling": "cubic"})
    labels = np.zeros((8, 8, 8), np.int8)
    labels[2:5, 3:6, 1:7] = 1
    geometry = Geometry(3, (2.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    image = Image(np.random.default_rng(0).normal(9, 1, (1, 8, 8, 8)).astype(np.float32), (2.0, 2.0, 2.0), geometry)
    first, second = (preprocess(image, labels, plan).labels for plan in (votes, nearest))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(second, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_only_the_plan_annotated_takes_the_vote_from_unannotated_voxels():
    known = {"spacing": [1.3, 1.3, 1.3], "transpose": [2, 0, 1], "normalization": ["zscore"], "use_mask": [False]}
    votes = PreprocessingPlan.from_json(known | {"intensities": [None]})
    annotated = PreprocessingPlan.from_json(known | {"intensities": [None], "label_resampling": "annotated"})
    assert len({votes.identifier(), annotated.identifier()}) == 2
    generator = np.random.default_rng(0)
    organ = np.zeros((20, 24, 28), np.int8)
    organ[5:15, 6:18, 7:21] = 1
    labels = np.where(generator.random(organ.shape) < 0.8, 2, organ)
    geometry = Geometry(3, (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel()))
    image = Image(generator.normal(9, 1, (1, *organ.shape)).astype(np.float32), ISOTROPIC, geometry)
    whole = preprocess(image, organ, votes).labels
    found = {plan: preprocess(image, labels, plan, ignore_label=2).labels for plan in (votes, annotated)}
    known = found[annotated] != 2
    assert known.mean() == pytest.approx(0.2, abs=0.02)
    assert (found[votes] != 2).mean() < 0.15
    assert (found[annotated][known] == whole[known]).mean() > 0.97
    assert np.array_equal(preprocess(image, labels, annotated).labels, found[votes])  # no label is named
