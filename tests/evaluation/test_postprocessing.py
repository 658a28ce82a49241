import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from segplan.errors import ConfigError
from segplan.evaluation import apply_postprocessing, find_components, parse_steps, remove_components

ANISOTROPIC = (3.0, 0.5, 0.7)


def keep_largest(*labels):
    return {"operation": "keep_largest_component", "labels": list(labels)}


def remove_small(volume, *labels):
    return {"operation": "remove_small_components", "labels": list(labels), "min_volume_mm3": volume}


def by_scipy(labels, values, keep):
    """Oracle: components of the joined mask with full connectivity; `keep` tells from all sizes which stay."""
    mask = np.isin(labels, values)
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    result = labels.copy()
    result[mask & ~np.concatenate([[True], keep(sizes)])[parts]] = 0
    return result


sparse_maps = arrays.arrays(np.uint8, (6, 5, 7), elements=st.sampled_from([0, 0, 0, 0, 1, 2, 3]))


@settings(max_examples=60, deadline=None)
@given(sparse_maps, st.sampled_from([(1,), (1, 2), (1, 2, 3)]))
def test_the_largest_component_of_joined_labels_is_kept_with_all_that_tie(labels, values):
    expected = by_scipy(labels, values, lambda sizes: sizes == sizes.max(initial=0))
    np.testing.assert_array_equal(apply_postprocessing(labels, ANISOTROPIC, [keep_largest(*values)]), expected)


@settings(max_examples=60, deadline=None)
@given(sparse_maps, st.sampled_from([1.0, 1.05, 2.1, 4.0]))
def test_components_below_the_volume_are_removed(labels, volume):
    voxel = 3.0 * 0.5 * 0.7
    expected = by_scipy(labels, (2,), lambda sizes: sizes * voxel >= volume - 1e-6)
    np.testing.assert_array_equal(apply_postprocessing(labels, ANISOTROPIC, [remove_small(volume, 2)]), expected)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, (7, 5, 4)), st.sampled_from([1, 20, 40, 60]), st.integers(0, 2**32 - 1))
def test_slabs_find_and_remove_the_same_components_as_the_whole(mask, slab_voxels, seed):
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))

    def read(start, end):
        return labels[start:end] == 1

    labels = mask.astype(np.uint8)
    components = find_components(read, labels.shape, slab_voxels)
    assert sorted(components.sizes) == sorted(np.bincount(parts.ravel(), minlength=count + 1)[1:])
    threshold = np.random.default_rng(seed).integers(1, 12)
    remove_components(labels, read, components, components.sizes < threshold)
    np.testing.assert_array_equal(labels, by_scipy(mask.astype(np.uint8), (1,), lambda sizes: sizes >= threshold))


def test_a_component_that_leaves_a_slab_and_comes_back_is_one():
    labels = np.zeros((6, 3, 7), np.uint8)
    labels[:, 1, 1] = labels[:, 1, 5] = 1
    labels[5, 1, 1:6] = 1  # the two columns meet in the last slice only
    labels[0, 1, 3] = 1
    components = find_components(lambda start, end: labels[start:end] == 1, labels.shape, slab_voxels=21)
    assert sorted(components.sizes) == [1, 15]


def test_steps_follow_one_another():
    labels = np.zeros((1, 5, 12), np.uint8)
    labels[0, 1, :5], labels[0, 1, 6:9], labels[0, 3, 6:10], labels[0, 1, 11] = 1, 1, 2, 2
    result = apply_postprocessing(labels, (1, 1, 1), [remove_small(2, 2), keep_largest(1, 2)])
    expected = np.zeros_like(labels)
    expected[0, 1, :5] = 1
    np.testing.assert_array_equal(result, expected)
    assert labels[0, 1, 11] == 2, "the input is left alone"


def test_in_place_changes_a_memory_map(tmp_path):
    labels = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.uint16, (4, 4, 4))
    labels[0, 0, 0], labels[2:, 2:, 2:] = 300, 300
    result = apply_postprocessing(labels, (1, 1, 1), [keep_largest(300)], in_place=True)
    assert result is labels
    assert labels[0, 0, 0] == 0
    assert int((labels == 300).sum()) == 8


def test_of_2d_data_the_area_counts():
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, 0, 0], labels[0, 2, :3] = 1, 1
    result = apply_postprocessing(labels, (999 * 2.0, 2.0, 2.0), [remove_small(5, 1)])
    assert int(result.sum()) == 3


def test_empty_maps_and_no_steps_change_nothing():
    empty = np.zeros((2, 3, 4), np.uint8)
    np.testing.assert_array_equal(apply_postprocessing(empty, (1, 1, 1), [keep_largest(1), remove_small(9, 1)]), empty)
    full = np.ones((2, 3, 4), np.uint8)
    for steps in (None, []):
        np.testing.assert_array_equal(apply_postprocessing(full, (1, 1, 1), steps), full)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"operation": "dilate", "labels": [1]}, "operation=dilate is unknown"),
        ({"operation": "keep_largest_component"}, "lacks labels"),
        ({"operation": "remove_small_components", "labels": [1]}, "lacks min_volume_mm3"),
        ({"operation": "keep_largest_component", "labels": [1], "size": 3}, "has no size"),
        ({"operation": "keep_largest_component", "labels": [0]}, "0 is no foreground label"),
        ({"operation": "keep_largest_component", "labels": []}, "is no list of labels"),
        ({"operation": "keep_largest_component", "labels": ["liver"]}, "liver is no foreground label"),
        ({"operation": "remove_small_components", "labels": [1], "min_volume_mm3": -1}, "is no volume"),
        ("keep_largest_component", "is no step"),
    ],
)
def test_steps_that_cannot_work_are_refused_with_their_place(step, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_steps([keep_largest(1), step], "inference.yaml, postprocessing")
    assert caught.value.where == "inference.yaml, postprocessing[1]"
