import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from smooth_case import smooth_case

from segplan.augmentation import Box3, Context, Spatial, initial_patch_size
from segplan.augmentation.patch_geometry import automatic_rotation
from segplan.augmentation.spatial import SpatialParams, cut_patch
from segplan.augmentation.warp import warp
from segplan.errors import ConfigError

TURNED = SpatialParams((0.4, -0.3, 0.7), 1.25)
IN_PLANE = SpatialParams((0.7,), 1.25)


def by_scipy(image, labels, box, patch_size, params):
    """Image and labels by scipy, one pass per label; where the two best scores nearly tie, the label is None (-99)."""
    grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch_size], indexing="ij"), -1)
    centre = np.array(box.lower) + (np.array(box.size) - 1) / 2
    positions = np.moveaxis(grid @ params.matrix().T + centre, -1, 0)
    warped = [ndimage.map_coordinates(channel, positions, order=1, mode="grid-constant") for channel in image]
    values = sorted({*np.unique(labels).tolist(), -1})
    scores = np.stack(
        [
            ndimage.map_coordinates(
                (labels[0] == v).astype(float), positions, order=1, mode="grid-constant", cval=v == -1
            )
            for v in values
        ]
    )
    winner = np.array(values)[scores.argmax(0)]
    ordered = np.sort(scores, axis=0)
    return np.stack(warped), np.where(ordered[-1] - ordered[-2] > 1e-3, winner, -99)


@pytest.mark.parametrize("params", [TURNED, IN_PLANE, SpatialParams((0.0, 0.0, 0.0), 0.8)])
@pytest.mark.parametrize("lower", [(2, 3, 1), (-9, 8, -3), (40, 0, 0)])
def test_warp_equals_one_interpolation_per_label_by_scipy(params, lower):
    image, labels = smooth_case((19, 22, 25), channels=2)
    box, patch_size = Box3(lower, (14, 15, 17)), (10, 11, 13)
    warped, voted = cut_patch(image, labels, box, patch_size, params)
    expected_image, expected_labels = by_scipy(image, labels, box, patch_size, params)
    if len(params.angles) == 1:  # planes stay planes: with box and patch of even sizes both centres agree
        assert (box.size[0] - patch_size[0]) % 2 == 0
    np.testing.assert_allclose(warped.numpy(), expected_image, atol=1e-5)
    is_clear = expected_labels != -99
    assert is_clear.mean() > 0.8
    np.testing.assert_array_equal(voted[0].numpy()[is_clear], expected_labels[is_clear])


def hidden_at_random(labels, share, seed=0):
    """Labels of which a share bears the ignore label 9, voxel by voxel."""
    return np.where(np.random.default_rng(seed).random(labels.shape) < share, 9, np.maximum(labels, 0)).astype(np.int16)


@pytest.mark.parametrize("params", [TURNED, IN_PLANE])
@pytest.mark.parametrize("lower", [(2, 3, 1), (-9, 8, -3)])
def test_unannotated_voxels_never_outvote_annotated_ones(params, lower):
    image, labels = smooth_case((19, 22, 25))
    labels = hidden_at_random(labels, 0.5)
    box, patch_size = Box3(lower, (14, 15, 17)), (10, 11, 13)
    grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch_size], indexing="ij"), -1)
    centre = np.array(box.lower) + (np.array(box.size) - 1) / 2
    positions = np.moveaxis(grid @ params.matrix().T + centre, -1, 0)
    scores, values = [], sorted({*np.unique(labels).tolist(), -1} - {9})
    for value in values:
        share = ndimage.map_coordinates(
            (labels[0] == value).astype(float), positions, order=1, mode="grid-constant", cval=value == -1
        )
        scores.append(share)
    nearest = ndimage.map_coordinates(labels[0], positions, order=0, mode="grid-constant", cval=-1)
    expected = np.where(nearest == 9, 9, np.array(values)[np.argmax(scores, 0)])
    ordered = np.sort(scores, axis=0)
    is_clear = (ordered[-1] - ordered[-2] > 1e-3) & (np.abs(np.abs(positions % 1) - 0.5) > 1e-3).all(0)
    _, voted = cut_patch(image, labels, box, patch_size, params, ignored=9)
    assert is_clear.mean() > 0.8
    np.testing.assert_array_equal(voted[0].numpy()[is_clear], expected[is_clear])


@pytest.mark.parametrize("params", [TURNED, IN_PLANE, SpatialParams((0.2, 0.1, -0.3), 0.75)])
def test_scattered_annotations_keep_their_number_and_their_labels_unless_they_are_voted_away(params):
    image, labels = smooth_case((40, 44, 48))
    box, patch_size = Box3((4, 4, 4), (32, 32, 32)), (32, 32, 32)
    _, whole = cut_patch(image, np.maximum(labels, 0), box, patch_size, params)
    scattered = hidden_at_random(labels, 0.8)
    _, kept = cut_patch(image, scattered, box, patch_size, params, ignored=9)
    _, voted = cut_patch(image, scattered, box, patch_size, params)
    inside = whole >= 0
    known = inside & (kept != 9)
    assert known[inside].float().mean() == pytest.approx(0.2, abs=0.01)
    assert (inside & (voted != 9)).sum() < 0.9 * known.sum()
    for label in (0, 1):
        share = (kept[known] == label).float().mean() / (whole[inside] == label).float().mean()
        assert share == pytest.approx(1, abs=0.1)
    assert (kept[known] == whole[known]).float().mean() > 0.9


def test_the_choice_of_votes_is_nnunets_rule():
    context = Context(1, (8, 8, 8), ignore_label=9)
    assert Spatial().without_vote(context) == 9
    assert Spatial(unannotated="votes").without_vote(context) == Spatial().without_vote(Context(1, (8, 8, 8)))
    with pytest.raises(ConfigError, match="Use nearest or votes"):
        Spatial(unannotated="linear")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint8, np.int32])
def test_labels_of_any_integer_type_give_the_same_patch(dtype):
    image, labels = smooth_case((12, 13, 14))
    labels = np.maximum(labels, 0)
    box = Box3((0, 0, 0), (12, 13, 14))
    _, expected = cut_patch(image, labels, box, (8, 8, 8), TURNED)
    _, voted = cut_patch(image, labels.astype(dtype), box, (8, 8, 8), TURNED)
    assert voted.dtype == torch.int16
    assert torch.equal(voted, expected)


def test_rotation_by_a_quarter_about_axis_0_moves_axis_2_onto_axis_1():
    image = np.zeros((1, 15, 15, 15), np.float32)
    image[0, 7, 7, 12] = 1
    labels = image.astype(np.int16)
    turned, voted = cut_patch(
        image, labels, Box3((0,) * 3, (15,) * 3), (15,) * 3, SpatialParams((math.pi / 2, 0, 0), 1)
    )
    assert turned[0, 7, 12, 7] == pytest.approx(1, abs=1e-5)
    assert voted.nonzero().tolist() == [[0, 7, 12, 7]]


def test_scale_above_one_shrinks_objects():
    image = np.zeros((1, 15, 15, 15), np.float32)
    image[0, 7, 7, 12] = 1
    shrunk, _ = cut_patch(
        image, image.astype(np.int16), Box3((0,) * 3, (15,) * 3), (15,) * 3, SpatialParams((0, 0, 0), 1.25)
    )
    assert shrunk[0, 7, 7, 11] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [(12, 13, 20), (11, 16, 21)])
def test_copying_the_patch_equals_reading_the_box_and_cropping_its_middle(size):
    image, labels = smooth_case((30, 30, 30))
    patch_size = (9, 10, 12)
    patch, patch_labels = cut_patch(image, labels, Box3((3, 4, 5), size), patch_size, None)
    part = tuple(slice(low, low + length) for low, length in zip((3, 4, 5), size, strict=True))
    read = np.ascontiguousarray(image[:, *part]), np.ascontiguousarray(labels[:, *part])
    cropped, cropped_labels = cut_patch(*read, Box3((0, 0, 0), size), patch_size, None)
    assert torch.equal(patch, cropped)
    assert torch.equal(patch_labels, cropped_labels)


def test_warp_finds_image_beyond_the_box_and_agrees_within_it():
    image, labels = smooth_case((40, 40, 40))
    box = Box3((12, 12, 12), (16, 16, 16))
    part = slice(12, 28)
    whole, _ = cut_patch(image, labels, box, (14, 14, 14), TURNED)
    read, _ = cut_patch(
        image[:, part, part, part], labels[:, part, part, part], Box3((0,) * 3, (16,) * 3), (14,) * 3, TURNED
    )
    assert (whole != 0).all()
    assert (read == 0).any()
    torch.testing.assert_close(whole[:, 4:10, 4:10, 4:10], read[:, 4:10, 4:10, 4:10], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("lower", "inside"), [((-4, -1, 2), (6, 9, 6)), ((5, 5, 5), (3, 3, 3))])
def test_patch_beyond_the_image_is_padded_with_zero_and_label_minus_one(lower, inside):
    image, labels = np.ones((1, 8, 8, 8), np.float32), np.ones((1, 8, 8, 8), np.int16)
    patch, patch_labels = cut_patch(image, labels, Box3(lower, (10, 10, 10)), (10, 10, 10), None)
    assert patch.sum() == np.prod([min(low + 10, 8) - max(low, 0) for low in lower])
    assert torch.equal(patch_labels == -1, patch == 0)
    assert int((patch_labels == 1).sum()) == int(patch.sum())


def test_patch_wholly_outside_is_empty():
    image, labels = smooth_case((8, 8, 8))
    for params in (None, TURNED, IN_PLANE):
        patch, patch_labels = cut_patch(image, labels, Box3((40, 0, 0), (6, 6, 6)), (6, 6, 6), params)
        assert not patch.any()
        assert (patch_labels == -1).all()


def test_in_plane_warp_treats_each_slice_by_itself():
    image, labels = smooth_case((5, 20, 22))
    box = Box3((0, 0, 0), (5, 20, 22))
    together, voted = cut_patch(image, labels, box, (5, 12, 12), IN_PLANE)
    for z in range(5):
        one, one_voted = cut_patch(
            image[:, z : z + 1], labels[:, z : z + 1], Box3((0,) * 3, (1, 20, 22)), (1, 12, 12), IN_PLANE
        )
        assert torch.equal(one[:, 0], together[:, z])
        assert torch.equal(one_voted[:, 0], voted[:, z])


def vote(corners, fraction):
    """The label at one point between 2 x 2 x 2 voxels."""
    labels = np.array(corners, np.int16).reshape(1, 2, 2, 2)
    voted = np.empty((1, 1, 1, 1), np.int16)
    out = (np.empty((1, 1, 1, 1), np.float32), voted)
    warp(np.zeros((1, 2, 2, 2), np.float32), labels, np.eye(3) * 1.1, np.full(3, fraction), out)
    return int(voted.item())


def test_label_with_the_largest_sum_of_weights_wins_even_against_the_nearest():
    assert vote([9, 7, 7, 7, 8, 8, 8, 8], 0.4) == 8  # 0.4 of all weight; 7 has 0.384, the nearest 0.216


def test_tied_labels_go_to_the_nearest_neighbours():
    assert vote([3, 1, 3, 1, 3, 1, 3, 1], 0.5) == 3  # halves are nearest to the even index


def test_tied_labels_without_the_nearest_go_to_the_smallest():
    # 6 and 7 have 0.144 + 0.096 each, the nearest voxel's 9 has 0.216.
    assert vote([9, 10, 6, 7, 7, 6, 11, 12], 0.4) == 6
    assert vote([9, 10, 7, 6, 6, 7, 11, 12], 0.4) == 6


@pytest.mark.parametrize(
    ("patch", "degrees", "dummy_2d", "expected"),
    [
        ((128, 128, 128), 30, False, (205, 205, 205)),
        ((96, 160, 160), 30, False, (191, 257, 219)),
        ((80, 192, 160), 30, False, (194, 289, 210)),
        ((512, 512), 180, False, (602, 602)),
        ((256, 224), 180, False, (301, 301)),
        ((320, 128), 15, False, (402, 150)),
        ((40, 224, 192), 180, True, (40, 263, 263)),
    ],
)
def test_initial_patch_size_is_nnunets(patch, degrees, dummy_2d, expected):
    assert initial_patch_size(patch, (-degrees, degrees), dummy_2d) == expected
    assert automatic_rotation(patch, dummy_2d) == (-degrees, degrees)


def test_neither_rotation_nor_scaling_in_64_of_100_samples_and_all_in_range():
    rng = np.random.default_rng(0)
    drawn = [Spatial().sample(rng, Context(1, (32, 32, 32))) for _ in range(4000)]
    acting = [params for params in drawn if params is not None]
    assert 1 - len(acting) / len(drawn) == pytest.approx(0.64, abs=0.03)
    angles = np.array([params.angles for params in acting if any(params.angles)])
    scales = np.array([params.scale for params in acting if params.scale != 1])
    assert len(angles) / 4000 == pytest.approx(0.2, abs=0.025)
    assert len(scales) / 4000 == pytest.approx(0.2, abs=0.025)
    assert np.abs(angles).max() == pytest.approx(math.radians(30), rel=0.02)
    assert (scales.min(), scales.max()) == (pytest.approx(0.7, abs=0.01), pytest.approx(1.4, abs=0.01))
    assert np.median(scales) == pytest.approx(1.05, abs=0.04)  # uniform, not symmetric about 1


@pytest.mark.parametrize(("patch", "dummy_2d"), [((64, 64), False), ((8, 64, 64), True)])
def test_one_angle_is_drawn_where_only_the_plane_turns(patch, dummy_2d):
    params = Spatial(rotation_probability=1).sample(np.random.default_rng(0), Context(1, patch, dummy_2d))
    assert params is not None
    assert len(params.angles) == 1
    np.testing.assert_array_equal(params.matrix()[0], (1, 0, 0))


@pytest.mark.parametrize("wrong", [{"rotation_probability": 1.5}, {"scale": (1.4, 0.7)}, {"rotation_degrees": "much"}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Spatial(**wrong)
