"""What is measured of a case, against counts made otherwise, and how its slice is laid out."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from segplan.dataset import Case, Description
from segplan.imaging import Geometry, Image
from segplan.reporting.style import class_colour
from segplan.reporting.survey import PERCENTILES, class_indices, look_at_case, measure_targets
from segplan.reporting.thumbnail import draw_thumbnail

SPARSE = {"background": 0, "organ": 10, "lesion": 255}


def description(labels=SPARSE, order=None, channels=2):
    raw = {
        "channel_names": {str(number): f"c{number}" for number in range(channels)},
        "labels": labels,
        "regions_class_order": order,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    return Description.from_json(raw, Path("/data/Dataset001_X/dataset.json"))


def label_map():
    """An organ of 60 voxels in two parts (the smaller has 6) with a lesion of 3 voxels that touch by corners only."""
    array = np.zeros((8, 10, 12), np.uint8)
    array[1:4, 1:4, 1:7] = 10
    array[6, 7:9, 7:10] = 10
    for step in range(3):
        array[5 + step, 1 + step, 9 + step] = 255
    return array


def write(path, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 1.0, 3.0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def case(tmp_path):
    rng = np.random.default_rng(0)
    images = tuple(
        write(tmp_path / f"a_{n:04d}.nii.gz", rng.normal(n, 1, (8, 10, 12)).astype(np.float32)) for n in (0, 1)
    )
    return Case("a", images, write(tmp_path / "a.nii.gz", label_map()))


def test_volumes_objects_and_intensities_are_those_of_the_case(case):
    look = look_at_case(case, description())
    assert (look.shape, look.spacing, look.flat, look.orientation) == ((8, 10, 12), (3.0, 1.0, 0.5), False, "LPS")
    assert look.problems == ()
    organ, lesion = look.targets
    assert (organ.voxels, organ.objects, organ.smallest) == (60, 2, 6)
    assert organ.place == (6, 7, 8)
    assert (lesion.voxels, lesion.objects, lesion.smallest) == (3, 1, 3), "corners connect"
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(case.images[1])))
    assert np.allclose(organ.intensities[1], np.percentile(values[label_map() == 10], PERCENTILES))
    assert np.allclose(
        look.channels[0], np.percentile(sitk.GetArrayFromImage(sitk.ReadImage(str(case.images[0]))), PERCENTILES)
    )


def test_regions_are_measured_as_a_whole(case):
    labels = {"background": 0, "both": [10, 255], "lesion": [255]}
    both, lesion = look_at_case(case, description(labels, [10, 255])).targets
    assert both.voxels == 63
    assert lesion.voxels == 3


def test_an_ignored_share_and_absent_classes_are_told(case):
    labels = {"background": 0, "lesion": 255, "other": 3, "ignore": 10}
    look = look_at_case(case, description(labels))
    assert look.ignored == pytest.approx(60 / label_map().size)
    assert [target.voxels for target in look.targets] == [3, 0]
    assert look.targets[1].intensities == ()


def test_values_that_are_no_label_count_as_background():
    indices = class_indices(np.array([[[0, 10, 7], [255, 300, -4]]], np.int16), description().labels)
    assert indices.tolist() == [[[0, 1, 0], [2, 0, 0]]]


def test_problems_are_results_and_what_can_be_measured_is(case, tmp_path):
    wrong = write(tmp_path / "wrong.nii.gz", np.ones((3, 4, 5), np.uint8))
    look = look_at_case(Case("a", case.images, wrong), description())
    assert "3×4×5" in look.problems[0].what
    assert look.targets == ()
    assert look.thumbnail is not None
    assert look.thumbnail.outlines is None
    missing = look_at_case(Case("a", (tmp_path / "none.nii.gz",), None), description(channels=1))
    assert missing.shape is None
    assert len(missing.problems) == 1
    infinite = write(tmp_path / "inf_0000.nii.gz", np.full((8, 10, 12), np.inf, np.float32))
    assert "infinite" in look_at_case(Case("a", (infinite,), case.label), description(channels=1)).problems[0].what


def head(code):
    """An image that is brighter in front, to the left and above; its axes (x, y, z) point as `code` says."""
    z, y, x = np.indices((6, 6, 6))  # z up, y to the back, x to the left
    array = (40 * (z >= 3) + 40 * (y < 3) + 40 * (x >= 3)).astype(np.float32)
    letters = "LPS"
    opposite = {"L": "R", "P": "A", "S": "I", "R": "L", "A": "P", "I": "S"}
    order = [letters.index(letter if letter in letters else opposite[letter]) for letter in code]
    direction = np.zeros((3, 3))
    stored = array.transpose(2, 1, 0).transpose(order)
    for axis, letter in enumerate(code):
        direction[order[axis], axis] = 1 if letter in letters else -1
        if letter not in letters:
            stored = np.flip(stored, axis)
    geometry = Geometry(3, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(direction.ravel().tolist()))
    return Image(np.ascontiguousarray(stored.transpose(2, 1, 0))[None], (1.0, 1.0, 1.0), geometry)


@pytest.mark.parametrize(
    "code", ["".join(p) for t in itertools.product("LR", "PA", "SI") for p in itertools.permutations(t)]
)
def test_slices_are_seen_from_the_feet_with_the_front_or_the_head_up(code):
    shot = draw_thumbnail(head(code), None, description(channels=1).labels)
    picture = np.asarray(Pillow.open(io.BytesIO(shot.picture)).convert("L"), float)
    half = picture.shape[0] // 2
    quarters = {
        (row, column): picture[row * half : (row + 1) * half, column * half : (column + 1) * half].mean()
        for row in (0, 1)
        for column in (0, 1)
    }
    bright = max(quarters, key=quarters.get)
    cut = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}[code[2]]
    assert shot.slice_name.startswith(cut)
    expected = {"axial": (0, 1), "coronal": (0, 1), "sagittal": (0, 0)}[cut]
    assert bright == expected


def test_outlines_are_drawn_in_the_colours_of_their_classes(case):
    look = look_at_case(case, description())
    picture = Pillow.open(io.BytesIO(look.thumbnail.outlines))
    assert picture.size == look.thumbnail.size
    pixels = np.asarray(picture.convert("RGBA"))
    seen = {tuple(colour) for colour in pixels[pixels[..., 3] > 0][:, :3].tolist()}
    assert seen <= {class_colour(1), class_colour(2)}
    assert class_colour(1) in seen
    assert (pixels[..., 3] == 0).mean() > 0.5


def test_many_classes_are_measured_as_by_one_comparison_each():
    rng = np.random.default_rng(3)
    values = rng.integers(0, 40, (6, 7, 8)).astype(np.uint8)
    labels = {"background": 0, **{f"l{number}": number for number in range(1, 50)}}
    known = description(labels, channels=1).labels
    image = Image(
        values[None].astype(np.float32), (1.0, 1.0, 1.0), Geometry(3, (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    )
    looks = measure_targets(image, class_indices(values, known), known)
    assert [look.voxels for look in looks] == [int((values == number).sum()) for number in range(1, 50)]
