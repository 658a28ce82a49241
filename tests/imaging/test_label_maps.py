"""What counts as a label map, and the type it is written with."""

import numpy as np
import pytest
import SimpleITK as sitk

from segplan.errors import ImageError
from segplan.imaging import IMAGE_ENDINGS, read_image, read_label_map, split_ending, write_label_map


def stored(path, array):
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, "uint8"),
        (0, 256, "uint16"),
        (0, 65536, "uint32"),
        (-1, 127, "int8"),
        (-1, 128, "int16"),
        (-1, 40000, "int32"),
    ],
)
def test_labels_are_written_and_read_with_the_smallest_type(tmp_path, low, high, dtype):
    labels = np.full((2, 3, 4), low, dtype=np.int64)
    labels[1, 2, 3] = high
    image = read_image([stored(tmp_path / "image.nii.gz", np.zeros((2, 3, 4), dtype=np.float32))])
    for ending in (".nii.gz", ".nrrd", ".mha"):
        path = tmp_path / f"labels{ending}"
        write_label_map(path, labels, image.geometry)
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).dtype == dtype
        read = read_label_map(path)
        assert read.array.dtype == dtype
        np.testing.assert_array_equal(read.array[0], labels)


def test_float_files_with_whole_numbers_are_label_maps(tmp_path):
    labels = np.array([[[0, 1, 2, 300]]], dtype=np.float64)
    read = read_label_map(stored(tmp_path / "a.nii.gz", labels))
    assert read.array.dtype == np.uint16
    np.testing.assert_array_equal(read.array[0], labels)


@pytest.mark.parametrize(
    ("value", "message"), [(0.5, "such as 0.5"), (np.nan, "nan"), (np.inf, "inf"), (1e30, "too large")]
)
def test_fractions_nan_and_absurd_numbers_are_refused(tmp_path, value, message):
    labels = np.zeros((2, 3, 4), dtype=np.float32)
    labels[0, 0, :2] = value
    with pytest.raises(ImageError, match=message) as caught:
        read_label_map(stored(tmp_path / "a.nii.gz", labels))
    assert "a.nii.gz" in str(caught.value)


def test_several_channels_are_no_label_map(tmp_path):
    with pytest.raises(ImageError, match="has 3"):
        read_label_map(stored(tmp_path / "a.nii.gz", np.zeros((2, 4, 5, 3), dtype=np.uint8)))


def test_writing_the_same_labels_twice_gives_the_same_bytes(tmp_path):
    geometry = read_image([stored(tmp_path / "image.nii.gz", np.zeros((2, 3, 4), dtype=np.float32))]).geometry
    labels = np.arange(24).reshape(2, 3, 4)
    write_label_map(tmp_path / "a.nii.gz", labels, geometry)
    write_label_map(tmp_path / "b.nii.gz", labels, geometry)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_floats_are_not_written_as_labels(tmp_path):
    geometry = read_image([stored(tmp_path / "image.nii.gz", np.zeros((2, 3, 4), dtype=np.float32))]).geometry
    with pytest.raises(ValueError, match="integers"):
        write_label_map(tmp_path / "a.nii.gz", np.zeros((2, 3, 4)), geometry)
    assert not (tmp_path / "a.nii.gz").exists()


def test_split_ending_takes_the_longest_ending_and_any_case():
    for ending in IMAGE_ENDINGS:
        assert split_ending(f"case.v2_0000{ending}") == ("case.v2_0000", ending)
    assert split_ending("A.NII.GZ") == ("A", ".NII.GZ")
    with pytest.raises(ImageError, match="npy"):
        split_ending("a.npy")
