"""The content of a case: each wrong thing is found, with its numbers, and right cases pass."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from segplan.dataset import Case, Description, Labels, check_case, check_classes
from segplan.imaging import Geometry, Image

SHAPE = (4, 5, 6)
CASE = Case("case_1", (Path("case_1_0000.nii.gz"),), Path("case_1.nii.gz"))


def description(channels=1, ignore=None):
    labels = {"background": 0, "a": 1, "b": 2}
    raw = {
        "channel_names": {str(number): f"channel{number}" for number in range(channels)},
        "labels": labels if ignore is None else {**labels, "ignore": ignore},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    return Description.from_json(raw, Path("/data/Dataset001_X/dataset.json"))


def geometry(spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=None):
    return Geometry(3, spacing, origin, tuple(np.eye(3).ravel().tolist() if direction is None else direction))


def image(array=None, **place):
    array = np.ones((1, *SHAPE), dtype=np.float32) if array is None else array
    placed = geometry(**place)
    return Image(array, placed.spacing[::-1], placed)


def labels(array=None, **place):
    if array is None:
        array = np.zeros((1, *SHAPE), dtype=np.uint8)
        array[0, 1, 1, :3] = (1, 2, 1)
    return image(array, **place)


def found(image, label_map, **kind):
    problems = check_case(CASE, description(**kind), image, label_map)
    assert all(problem.case == "case_1" and problem.remedy for problem in problems)
    return problems


def only(image, label_map, **kind):
    problems = found(image, label_map, **kind)
    assert len(problems) == 1, problems
    return problems[0]


def test_a_sound_case_has_no_problems():
    assert found(image(), labels()) == []
    assert found(image(), None) == []


def test_nan_and_infinite_voxels_are_counted_by_channel():
    array = np.ones((2, *SHAPE), dtype=np.float32)
    array[1, 0, 0, :2] = np.nan
    array[1, 1, 1, 1] = -np.inf
    problem = only(image(array), labels(), channels=2)
    assert problem.fatal
    assert "channel 1 has 2 NaN and 1 infinite of 120 voxels" in problem.what


def test_the_wrong_number_of_channels_is_named():
    problem = only(image(), labels(), channels=2)
    assert problem.fatal
    assert "has 1 channels, dataset.json names 2 (channel0, channel1)" in problem.what


def test_different_shapes_are_both_named():
    problem = only(image(), labels(np.ones((1, 4, 5, 7), dtype=np.uint8)))
    assert problem.fatal
    assert "4×5×6" in problem.what
    assert "4×5×7" in problem.what


def test_different_spacings_are_both_named():
    problem = only(image(), labels(spacing=(1.0, 1.0, 1.5)))
    assert problem.fatal
    assert "1×1×1" in problem.what
    assert "1.5×1×1" in problem.what
    assert found(image(), labels(spacing=(1.0, 1.0, 1.0005))) == []


def test_another_position_is_noted_only_where_voxels_move():
    assert found(image(), labels(origin=(0.05, 0.0, 0.0))) == []
    problem = only(image(), labels(origin=(0.0, 3.0, 0.0)))
    assert not problem.fatal
    assert "3.0 voxels" in problem.what
    turned = Rotation.from_euler("z", 180, degrees=True).as_matrix().ravel().tolist()
    # The far corner (5, 4) goes to (-5, -4).
    assert f"{np.hypot(10, 8):.1f} voxels" in only(image(), labels(direction=turned)).what
    slightly = Rotation.from_euler("z", 0.1, degrees=True).as_matrix().ravel().tolist()
    assert found(image(), labels(direction=slightly)) == []


def test_unknown_labels_are_listed_with_their_voxels():
    array = np.zeros((1, *SHAPE), dtype=np.int16)
    array[0, 0, 0, :4] = (1, 3, 3, 200)
    array[0, 1, 0, 0] = -2
    problem = only(image(), labels(array))
    assert problem.fatal
    assert "-2 (1 voxels), 3 (2 voxels), 200 (1 voxels)" in problem.what


def test_values_between_the_labels_are_unknown_too():
    array = np.zeros((1, *SHAPE), dtype=np.uint8)
    array[0, 0, 0, :4] = (1, 2, 255, 9)
    assert "9 (1 voxels)" in only(image(), labels(array), ignore=255).what
    array[0, 0, 0, 3] = 255
    assert found(image(), labels(array), ignore=255) == []


def test_many_unknown_labels_are_cut_short():
    array = np.arange(120, dtype=np.uint8).reshape(1, *SHAPE)
    assert "10 (1 voxels) and 109 more" in only(image(), labels(array)).what


@pytest.mark.parametrize("content", [(0,), (0, 3)])
def test_a_label_map_without_foreground_is_noted(content):
    array = np.zeros((1, *SHAPE), dtype=np.uint8)
    array[0, 0, 0, : len(content)] = content
    problem = only(image(), labels(array), ignore=3)
    assert not problem.fatal
    assert "no foreground" in problem.what


def test_a_label_map_that_is_ignored_as_a_whole_is_said_to_be_no_annotation():
    problem = only(image(), labels(np.full((1, *SHAPE), 3, dtype=np.uint8)), ignore=3)
    assert not problem.fatal
    assert "no voxel of the label map is annotated" in problem.what


def test_the_ignore_label_is_known():
    array = np.zeros((1, *SHAPE), dtype=np.uint8)
    array[0, 0, 0, :2] = (3, 1)
    assert found(image(), labels(array), ignore=3) == []
    assert "3 (1 voxels)" in only(image(), labels(array)).what


def test_all_problems_of_a_case_come_together():
    array = np.full((1, *SHAPE), np.nan, dtype=np.float32)
    wrong = labels(np.full((1, 4, 5, 7), 9, dtype=np.uint8))
    texts = [problem.what for problem in found(image(array), wrong, channels=2)]
    assert len(texts) == 4
    for text, part in zip(texts, ("NaN", "channels", "4×5×7", "9 (140 voxels)"), strict=True):
        assert part in text


def test_classes_that_no_case_has_are_notes_and_no_class_at_all_is_a_problem():
    known = Labels({"background": 0, "whole": (1, 2), "core": 2}, 9, (1, 2))
    assert check_classes(known, {"whole", "core"}) == []
    (note,) = check_classes(known, {"whole"})
    assert not note.fatal and note.what == "core (value 2) occurs in no case"
    (problem,) = check_classes(known, set())
    assert problem.fatal and "every label map is empty" in problem.what
