import math

import numpy as np
import pytest

from segplan.patches import lower_corner_bounds, place_box
from segplan.preprocessing import ANNOTATED

NONE = {"1": np.empty((0, 3), np.int32)}


def place(rng, shape, box, patch, locations=NONE, is_forced=False):
    return np.array(
        place_box(rng, shape=shape, box_size=box, patch_size=patch, locations=locations, is_forced=is_forced).lower
    )


@pytest.mark.parametrize("size", [5, 8, 20, 41])
@pytest.mark.parametrize(("box", "patch"), [(12, 12), (20, 12), (21, 12), (21, 13)])
def test_bounds_follow_the_published_rule(size, box, patch):
    pad = box - patch
    if pad + size < box:
        pad = box - size
    low, high = lower_corner_bounds((size,) * 3, (box,) * 3, (patch,) * 3)
    assert low == (-math.ceil(pad / 2),) * 3
    assert high == (size + math.ceil(pad / 2) - box,) * 3


def test_free_placement_reaches_every_allowed_corner_uniformly():
    rng = np.random.default_rng(0)
    corners = np.array([place(rng, (16, 10, 30), (12, 12, 16), (8, 8, 8))[0] for _ in range(3000)])
    values, counts = np.unique(corners, return_counts=True)
    assert values.tolist() == list(range(-2, 7))
    assert counts.min() > 3000 / 9 * 0.75


def test_patch_in_a_case_smaller_than_it_covers_the_whole_case():
    rng = np.random.default_rng(0)
    for _ in range(50):
        corner = place(rng, (5, 6, 7), (10, 10, 10), (10, 10, 10))
        assert (corner <= 0).all()
        assert (corner + 10 >= (5, 6, 7)).all()


def test_forced_placement_draws_classes_uniformly_and_centres_on_their_voxels():
    rng = np.random.default_rng(0)
    locations = {"1": np.full((999, 3), 20), "(1, 2)": np.array([[30, 31, 32]]), **{"3": np.empty((0, 3), int)}}
    corners = [tuple(place(rng, (60,) * 3, (12, 13, 14), (8, 8, 8), locations, True)) for _ in range(1000)]
    assert set(corners) == {(14, 14, 13), (24, 25, 25)}
    assert corners.count((14, 14, 13)) / 1000 == pytest.approx(0.5, abs=0.06)


def test_forced_placement_is_bounded_below_and_not_above():
    rng = np.random.default_rng(0)
    at = {"1": np.array([[0, 19, 10]])}
    assert place(rng, (20,) * 3, (10,) * 3, (8,) * 3, at, True).tolist() == [-1, 14, 5]


def test_case_without_foreground_is_sampled_anywhere():
    rng = np.random.default_rng(0)
    corners = {tuple(place(rng, (20,) * 3, (10,) * 3, (10,) * 3, NONE, True)) for _ in range(50)}
    assert len(corners) > 30


def test_with_an_ignore_label_unforced_patches_are_centred_on_annotated_voxels():
    rng = np.random.default_rng(0)
    locations = {"1": np.array([[5, 5, 5]]), ANNOTATED: np.array([[9, 9, 9]])}
    assert place(rng, (20,) * 3, (4,) * 3, (4,) * 3, locations, False).tolist() == [7, 7, 7]
    for _ in range(20):  # "annotated" is no class while there is another
        assert place(rng, (20,) * 3, (4,) * 3, (4,) * 3, locations, True).tolist() == [3, 3, 3]
    only = {"1": np.empty((0, 3), int), ANNOTATED: np.array([[9, 9, 9]])}
    assert place(rng, (20,) * 3, (4,) * 3, (4,) * 3, only, True).tolist() == [7, 7, 7]


def test_a_slice_of_a_3d_case_is_drawn_for_2d_patches():
    rng = np.random.default_rng(0)
    slices = {int(place(rng, (6, 30, 30), (1, 20, 20), (1, 12, 12))[0]) for _ in range(200)}
    assert slices == set(range(6))
    assert place(rng, (6, 30, 30), (1, 20, 20), (1, 12, 12), {"1": np.array([[4, 15, 15]])}, True)[0] == 4
