"""dataset.json: what is accepted, and how a wrong one is explained."""

import json

import pytest

from segplan.dataset import read_description
from segplan.errors import DatasetError

GOOD = {
    "channel_names": {"1": "ADC", "0": "T2"},
    "labels": {"background": 0, "a": 1},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def described(folder, **changes):
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return read_description(folder)


def test_a_description_is_read_with_its_defaults(tmp_path):
    description = described(tmp_path)
    assert description.name == tmp_path.name
    assert description.channel_names == ("T2", "ADC")
    assert (description.file_ending, description.label_ending) == (".nii.gz", ".nii.gz")
    assert description.num_training == 3
    assert description.raw["file_ending"] == ".nii.gz"
    assert described(tmp_path, name="Größe").name == "Größe"


def test_the_older_key_modality_is_accepted(tmp_path):
    assert described(tmp_path, channel_names=None, modality={"0": "MRI"}).channel_names == ("MRI",)


def test_the_label_ending_is_found_or_given(tmp_path):
    assert described(tmp_path, file_ending=".jpg").label_ending == ".png"
    labels = tmp_path / "labelsTr"
    labels.mkdir()
    for name in ("a.tif", "b.tif", "README.txt", ".hidden.png"):
        (labels / name).touch()
    assert described(tmp_path, file_ending=".jpg").label_ending == ".tif"
    assert described(tmp_path, file_ending=".jpg", label_ending=".bmp").label_ending == ".bmp"
    (labels / "c.nii.gz").touch()
    assert described(tmp_path).label_ending == ".nii.gz"


@pytest.mark.parametrize("key", ["channel_names", "labels", "numTraining", "file_ending"])
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(DatasetError, match=f"missing key {key}") as caught:
        described(tmp_path, **{key: None})
    assert str(tmp_path / "dataset.json") in str(caught.value)
    assert f'"{key}"' in caught.value.remedy


def test_all_missing_keys_are_named_at_once(tmp_path):
    with pytest.raises(DatasetError, match="numTraining and file_ending"):
        described(tmp_path, numTraining=None, file_ending=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numTraining": "3"}, "numTraining is '3'"),
        ({"numTraining": 0}, "numTraining is 0"),
        ({"file_ending": "nii.gz"}, "file_ending is 'nii.gz'"),
        ({"file_ending": ".npy"}, "file_ending is '.npy'"),
        ({"label_ending": 3}, "label_ending is 3"),
        ({"channel_names": {}}, "channel_names"),
        ({"channel_names": ["CT"]}, "channel_names"),
        ({"channel_names": {"1": "CT"}}, "keys 1"),
        ({"channel_names": {"0": "CT", "2": "PET"}}, "keys 0, 2"),
        ({"labels": {"background": 1}}, "background.*must be 0"),
    ],
)
def test_values_that_cannot_work_are_explained(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message) as caught:
        described(tmp_path, **changes)
    assert str(tmp_path) in caught.value.where
    assert caught.value.remedy


def test_unreadable_files_are_explained(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        read_description(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        read_description(tmp_path)
    for content, message in (('{\n "a": 1,,\n}', "line 2"), ("[1]", "no JSON object")):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(DatasetError, match=message):
            read_description(tmp_path)
    (tmp_path / "dataset.json").write_bytes(b'{"name": "\xe4"}')
    with pytest.raises(DatasetError, match="UTF-8"):
        read_description(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert read_description(tmp_path).num_training == 3
