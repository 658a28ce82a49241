"""Raw datasets in formats other than one NIfTI file a channel pass verification, and odd ones are told apart."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from segplan.dataset import open_dataset
from segplan.errors import VerificationError
from segplan.imaging import read_image
from segplan.jobs.inspection import verify

SHAPE = (6, 7, 8)


@pytest.fixture
def dataset(tmp_path):
    """A function that writes dataset.json and gives the two folders."""
    folders = [tmp_path / "Dataset001_Odd" / name for name in ("imagesTr", "labelsTr")]
    for folder in folders:
        folder.mkdir(parents=True)

    def describe(ending, channels=1, **further):
        content = {
            "channel_names": {str(number): f"c{number}" for number in range(channels)},
            "labels": {"background": 0, "thing": 1},
            "numTraining": 2,
            "file_ending": ending,
        }
        (folders[0].parent / "dataset.json").write_text(json.dumps(content | further))
        return folders

    return describe


def volume(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def label_map():
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    return labels


def store(path, array, like=None):
    image = sitk.GetImageFromArray(array)
    image.SetMetaData("0008|0060", "CT")
    if like is not None:
        image.CopyInformation(like)
    sitk.WriteImage(image, str(path))
    return image


def test_dicom_series_in_folders_and_in_files_of_many_frames(dataset, capsys):
    images, labels = dataset(".dcm")
    (images / "a_0000").mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(SHAPE[0]):
        piece = sitk.GetImageFromArray(volume()[z])
        tags = {"0020|000e": "1.2.3", "0020|000d": "1.2", "0008|0060": "CT", "0020|0032": f"0\\0\\{z}"}
        for key, value in (tags | {"0020|0037": "1\\0\\0\\0\\1\\0", "0008|0016": "1.2.840.10008.5.1.4.1.1.2"}).items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(images / "a_0000" / f"{z}.dcm"))
        writer.Execute(piece)
    store(images / "b_0000.dcm", volume(1))
    for name in "ab":
        store(labels / f"{name}.nii.gz", label_map())
    found = open_dataset(images.parent)
    assert [case.identifier for case in found.cases] == ["a", "b"]
    assert found.description.label_ending == ".nii.gz"
    np.testing.assert_array_equal(read_image(found.cases[0].images).array[0], volume())
    assert verify(images.parent, 1) == 0
    assert "nothing to mend" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["", "_0000"])
def test_one_4d_file_a_case_holds_all_channels(dataset, suffix):
    images, labels = dataset(".nii.gz", channels=3)
    for name in "ab":
        channels = [sitk.GetImageFromArray(volume(seed)) for seed in range(3)]
        sitk.WriteImage(sitk.JoinSeries(channels), str(images / f"{name}{suffix}.nii.gz"))
        store(labels / f"{name}.nii.gz", label_map())
    assert verify(images.parent, 1) == 0
    assert read_image(open_dataset(images.parent).cases[1].images).array.shape == (3, *SHAPE)


def test_a_4d_file_with_another_number_of_channels_is_told(dataset):
    images, labels = dataset(".nii.gz", channels=4)
    for name in "ab":
        channels = [sitk.GetImageFromArray(volume(seed)) for seed in range(3)]
        sitk.WriteImage(sitk.JoinSeries(channels), str(images / f"{name}.nii.gz"))
        store(labels / f"{name}.nii.gz", label_map())
    with pytest.raises(VerificationError) as caught:
        verify(images.parent, 1)
    assert "3 channels, dataset.json names 4" in caught.value.problems[0].what


def test_files_without_a_channel_number_are_told_where_others_have_one(dataset):
    images, labels = dataset(".nii.gz", channels=2)
    for name in ("a_0000", "a_0001", "b"):
        store(images / f"{name}.nii.gz", volume())
    for name in "ab":
        store(labels / f"{name}.nii.gz", label_map())
    with pytest.raises(VerificationError) as caught:
        verify(images.parent, 1)
    assert any("no channel number" in problem.what for problem in caught.value.problems)


def test_tiff_volumes_with_spacing_files_in_both_folders(dataset):
    images, labels = dataset(".tif")
    for name in "ab":
        tifffile.imwrite(images / f"{name}_0000.tif", volume(), photometric="minisblack")
        tifffile.imwrite(labels / f"{name}.tif", label_map(), photometric="minisblack")
        for folder in (images, labels):
            (folder / f"{name}.json").write_text(json.dumps({"spacing": [3, 0.5, 0.5]}))
    assert verify(images.parent, 1) == 0
    assert read_image(open_dataset(images.parent).cases[0].images).spacing == (3, 0.5, 0.5)


def test_images_and_label_maps_may_end_differently(dataset):
    images, labels = dataset(".mha")
    for name in "ab":
        image = store(images / f"{name}_0000.mha", volume())
        store(labels / f"{name}.nrrd", label_map(), image)
    assert open_dataset(images.parent).description.label_ending == ".nrrd"
    assert verify(images.parent, 1) == 0


def test_cases_that_are_oriented_differently_are_noted_and_accepted(dataset, capsys):
    images, labels = dataset(".nii.gz")
    for name, flip in (("a", 1.0), ("b", -1.0)):
        image = sitk.GetImageFromArray(volume())
        image.SetDirection((flip, 0, 0, 0, 1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(images / f"{name}_0000.nii.gz"))
        store(labels / f"{name}.nii.gz", label_map(), image)
    assert verify(images.parent, 1) == 0
    assert "point different ways: 1 LPS, 1 RPS" in " ".join(capsys.readouterr().out.split())
