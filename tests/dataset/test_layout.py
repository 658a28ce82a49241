"""The raw layout: which files make a case, and all that is wrong with them at once. Files are empty: none is opened."""

import json
import time

import pytest

from segplan.dataset import cases_in_folder, open_dataset
from segplan.errors import DatasetError, VerificationError


def make(folder, images, labels, channels=1, count=None, ending=".nii.gz", **extra):
    for name, files in (("imagesTr", images), ("labelsTr", labels)):
        (folder / name).mkdir(parents=True)
        for file in files:
            (folder / name / file).touch()
    description = {
        "channel_names": {str(number): f"c{number}" for number in range(channels)},
        "labels": {"background": 0, "a": 1},
        "numTraining": len(labels) if count is None else count,
        "file_ending": ending,
        **extra,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def problems(folder):
    with pytest.raises(VerificationError) as caught:
        open_dataset(folder)
    assert all(problem.fatal and problem.remedy for problem in caught.value.problems)
    return [(problem.case, problem.what) for problem in caught.value.problems]


def test_cases_are_sorted_with_their_channels_in_order(tmp_path):
    names = ["c2", "c10", "a_0000"]
    images = [f"{name}_{channel:04d}.nii.gz" for name in names for channel in (1, 0)]
    extras = ["README.txt", ".c9_0000.nii.gz", "._c2_0000.nii.gz"]
    folder = make(tmp_path / "Dataset001_X", images + extras, [f"{name}.nii.gz" for name in names], channels=2)
    dataset = open_dataset(folder)
    assert dataset.name == "Dataset001_X"
    assert [case.identifier for case in dataset.cases] == ["a_0000", "c10", "c2"]
    assert [path.name for path in dataset.cases[1].images] == ["c10_0000.nii.gz", "c10_0001.nii.gz"]
    assert dataset.cases[2].label == folder / "labelsTr" / "c2.nii.gz"


def test_all_layout_problems_come_at_once(tmp_path):
    images = ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz", "c_0002.nii.gz", "d_0000.nii.gz"]
    images += ["d_0001.nii.gz", "d_0002.nii.gz", "e.nii.gz"]
    folder = make(tmp_path / "d", images, ["b.nii.gz", "c.nii.gz", "d.nii.gz", "z.nii.gz"], channels=2, count=9)
    found = problems(folder)
    expected = [
        (None, "imagesTr/e.nii.gz has no channel number"),
        ("b", "channel file b_0001.nii.gz is missing"),
        ("c", "channel file c_0001.nii.gz is missing"),
        ("c", "c_0002.nii.gz: channel numbers go from 0000 to 0001"),
        ("d", "d_0002.nii.gz: channel numbers go from 0000 to 0001"),
        ("a", "the image has no label map"),
        ("z", "the label map has no image"),
        (None, "numTraining in dataset.json is 9, the dataset has 4 cases"),
    ]
    assert len(found) == len(expected)
    for (case, what), (expected_case, start) in zip(found, expected, strict=True):
        assert case == expected_case
        assert what.startswith(start)


def test_missing_folders_and_empty_ones_are_problems(tmp_path):
    folder = make(tmp_path / "d", [], [], count=1)
    assert problems(folder) == [(None, "imagesTr holds no .nii.gz image")]
    (folder / "imagesTr" / "a_0000.nrrd").touch()
    assert problems(folder) == [(None, "imagesTr holds no .nii.gz image, but 1 that end in .nrrd")]
    (folder / "imagesTr" / "a_0000.nrrd").unlink()
    (folder / "imagesTr").rmdir()
    (folder / "labelsTr").rmdir()
    assert problems(folder) == [(None, "there is no folder imagesTr"), (None, "there is no folder labelsTr")]


def test_one_file_may_hold_all_channels_where_no_case_has_more(tmp_path):
    folder = make(tmp_path / "d", ["a_0000.jpg", "b_0000.jpg"], ["a.png", "b.png"], channels=3, ending=".jpg")
    dataset = open_dataset(folder)
    assert [len(case.images) for case in dataset.cases] == [1, 1]
    assert dataset.cases[0].label.name == "a.png"


def test_explicit_cases_are_taken_in_their_order(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    for name in ("x.nii.gz", "x_label.nii.gz", "y.nii.gz", "y_label.nii.gz"):
        (tmp_path / "elsewhere" / name).touch()
    monkeypatch.setenv("SEGPLAN_TEST_PLACE", str(tmp_path / "elsewhere"))
    listed = {
        "y": {"images": ["$SEGPLAN_TEST_PLACE/y.nii.gz"], "label": "$SEGPLAN_TEST_PLACE/y_label.nii.gz"},
        "x": {"images": ["../elsewhere/x.nii.gz"], "label": "../elsewhere/x_label.nii.gz"},
    }
    dataset = open_dataset(make(tmp_path / "d", [], [], count=2, dataset=listed))
    assert [case.identifier for case in dataset.cases] == ["y", "x"]
    assert dataset.cases[0].images == (tmp_path / "elsewhere" / "y.nii.gz",)
    assert dataset.cases[1].label.resolve() == tmp_path / "elsewhere" / "x_label.nii.gz"


def test_explicit_cases_are_checked(tmp_path):
    folder = make(tmp_path / "d", ["a_0000.nii.gz"], ["a.nii.gz"], count=4)
    good = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    listed = {
        "a": good,
        "gone": {"images": ["imagesTr/gone.nii.gz"], "label": "labelsTr/gone.nii.gz"},
        "two": {**good, "images": good["images"] * 2},
        "bare": {"images": ["imagesTr/a_0000.nii.gz"]},
    }
    description = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**description, "dataset": listed}))
    found = problems(folder)
    assert [case for case, _ in found] == ["gone", "gone", "two", "bare", None]
    assert "does not exist" in found[0][1]
    assert "2 images are listed, 1 expected" in found[2][1]
    assert "lacks images or label" in found[3][1]
    away = {"images": ["$SEGPLAN_NOT_SET/a.nii.gz"], "label": "${SEGPLAN_NOT_SET}/b.nii.gz"}
    listed = {"a": good, "b/c": good, "away": away}
    (folder / "dataset.json").write_text(json.dumps({**description, "dataset": listed, "numTraining": 2}))
    with pytest.raises(VerificationError) as caught:
        open_dataset(folder)
    assert [problem.case for problem in caught.value.problems] == ["b/c", "away", "away"]
    assert {problem.remedy for problem in caught.value.problems[1:]} == {
        "Set the environment variable SEGPLAN_NOT_SET."
    }
    (folder / "dataset.json").write_text(json.dumps({**description, "dataset": ["a"]}))
    with pytest.raises(DatasetError, match="JSON object"):
        open_dataset(folder)


def test_a_case_that_is_listed_twice_is_refused(tmp_path):
    folder = make(tmp_path / "d", ["a_0000.nii.gz"], ["a.nii.gz"], count=1)
    entry = '{"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}'
    content = json.dumps(json.loads((folder / "dataset.json").read_text()))[:-1]
    (folder / "dataset.json").write_text(f'{content}, "dataset": {{"a": {entry}, "a": {entry}}}}}')
    with pytest.raises(DatasetError, match='"a" stands twice'):
        open_dataset(folder)


def test_prediction_inputs_are_grouped(tmp_path):
    for name in ("b_0000.nii.gz", "b_0001.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    cases = cases_in_folder(tmp_path, ".nii.gz", 2)
    assert [(case.identifier, len(case.images), case.label) for case in cases] == [("a", 2, None), ("b", 2, None)]
    (tmp_path / "b_0001.nii.gz").unlink()
    (tmp_path / "c.nii.gz").touch()
    with pytest.raises(VerificationError) as caught:
        cases_in_folder(tmp_path, ".nii.gz", 2)
    assert [problem.case for problem in caught.value.problems] == [None, "b"]
    assert "c_0000.nii.gz" in caught.value.problems[0].remedy
    with pytest.raises(DatasetError, match=r"no \.mha image"):
        cases_in_folder(tmp_path, ".mha", 2)
    with pytest.raises(DatasetError, match="no such folder"):
        cases_in_folder(tmp_path / "absent", ".mha", 2)


def test_a_large_dataset_opens_in_linear_time(tmp_path):
    def seconds(count):
        names = [f"case_{number:05d}" for number in range(count)]
        images = [f"{name}_0000.nii.gz" for name in names]
        folder = make(tmp_path / str(count), images, [f"{name}.nii.gz" for name in names])
        start = time.process_time()
        assert len(open_dataset(folder).cases) == count
        return time.process_time() - start

    seconds(50)
    assert seconds(4000) < 1.0  # quadratic matching takes minutes
