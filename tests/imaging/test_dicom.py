"""DICOM: one series in a folder, one of several, single files; and everything that does not stack."""

import locale
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segplan.errors import ImageError
from segplan.imaging import label_ending_for, read_image, read_label_map, write_label_map
from segplan.imaging.image import corner_shift
from segplan.inference.inputs import find_cases

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


def slice_file(path, pixels, *, number=0, z=0.0, series="1.2.3", modality="CT", tags=(), spacing=(0.7, 0.8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing(spacing)
    values = {
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        "0008|0060": modality,
        "0020|000d": "1.2",
        "0020|000e": series,
        "0020|0013": str(number),
        "0020|0032": f"-10\\20.5\\{z}",
        "0020|0037": "1\\0\\0\\0\\1\\0",
    } | dict(tags)
    for key, value in values.items():
        if value is not None:
            image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


def series_folder(folder, heights=(0.0, 2.5, 5.0, 7.5, 10.0), **options):
    """Slices whose file names run against their heights, as scanners like to have it."""
    for number, height in enumerate(heights):
        slice_file(folder / f"IM{99 - number:03d}.dcm", VOXELS[number], number=number, z=height, **options)
    return folder


def test_a_folder_is_one_volume_sorted_by_position(tmp_path):
    folder = series_folder(tmp_path / "case")
    (folder / "DICOMDIR").write_bytes(b"a listing")
    (folder / "notes.txt").write_text("no DICOM")
    image = read_image([folder])
    np.testing.assert_array_equal(image.array[0], VOXELS)
    assert image.spacing == (2.5, 0.8, 0.7)
    assert image.geometry.origin == (-10.0, 20.5, 0.0)


def test_it_sits_where_itk_has_it(tmp_path):
    folder = series_folder(tmp_path / "case", tags={"0020|0037": "0\\1\\0\\0\\0\\-1"}.items(), heights=[0.0])
    for number in range(1, 4):  # sagittal: the normal is -x
        tags = {"0020|0037": "0\\1\\0\\0\\0\\-1", "0020|0032": f"{-10 + 3 * number}\\20.5\\0"}.items()
        slice_file(folder / f"{number}.dcm", VOXELS[number], tags=tags)
    expected = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = read_image([folder])
    np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(image.geometry.spacing, expected.GetSpacing(), rtol=1e-12)
    np.testing.assert_allclose(image.geometry.direction, expected.GetDirection(), atol=1e-12)
    np.testing.assert_allclose(image.geometry.origin, expected.GetOrigin(), atol=1e-9)


def test_reading_leaves_the_locale_as_it_was(tmp_path):
    folder = series_folder(tmp_path / "ct")
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    read_image([folder])
    assert locale.setlocale(locale.LC_CTYPE) == "C.UTF-8"


def test_files_without_an_ending_are_known_by_their_content(tmp_path):
    folder = series_folder(tmp_path / "case")
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(""))
    np.testing.assert_array_equal(read_image([folder]).array[0], VOXELS)


def test_intensities_are_rescaled_slice_by_slice(tmp_path):
    folder = tmp_path / "pet"
    for number in range(3):
        tags = {"0028|1053": "1", "0028|1052": "0"}.items()
        path = slice_file(folder / f"{number}.dcm", VOXELS[number], z=number * 2.0, modality="PT", tags=tags)
        slope = b"\x28\x00\x53\x10\x02\x00\x00\x00"
        content = path.read_bytes()
        assert slope + b"1 " in content
        path.write_bytes(content.replace(slope + b"1 ", slope + [b".5", b"1 ", b"3 "][number]))
    expected = VOXELS[:3] * np.array([0.5, 1.0, 3.0])[:, None, None]
    np.testing.assert_array_equal(read_image([folder]).array[0], expected)


def test_of_several_series_one_is_named_by_its_uid(tmp_path):
    folder = series_folder(tmp_path / "study")
    for number in range(3):
        slice_file(folder / f"mr{number}.dcm", VOXELS[number] + 1, z=number, series="1.2.4", modality="MR")
    with pytest.raises(ImageError, match=r"2 series: .*1\.2\.3 \(CT, 5 files\).*FOLDER/SERIES_UID") as caught:
        read_image([folder])
    assert "1.2.4 (MR, 3 files)" in str(caught.value)
    np.testing.assert_array_equal(read_image([folder / "1.2.4"]).array[0], VOXELS[:3] + 1)
    with pytest.raises(ImageError, match="no DICOM series"):
        read_image([folder / "1.2.5"])


@pytest.mark.parametrize(
    ("heights", "message"),
    [
        ((0.0, 2.5, 5.0, 10.0), "1 slices are missing, the first after IM097.dcm"),
        ((0.0, 2.5, 5.0, 15.0), "3 slices are missing"),
        ((0.0, 2.5, 5.0, 8.0), r"uneven \(2.5 to 3 mm\)"),
        ((0.0, 2.5, 2.5, 5.0), "same place"),
    ],
)
def test_slices_that_do_not_stack_evenly_are_refused(tmp_path, heights, message):
    with pytest.raises(ImageError, match=message) as caught:
        read_image([series_folder(tmp_path / "case", heights)])
    assert caught.value.remedy


def test_distances_that_are_rounded_are_even(tmp_path):
    assert read_image([series_folder(tmp_path / "case", (0.0, 0.63, 1.25, 1.88, 2.5))]).spacing[0] == 0.625


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"spacing": (0.9, 0.9)}, "pixel spacing"),
        ({"tags": {"0020|0037": "1\\0\\0\\0\\0\\1"}.items()}, "orientation"),
        ({"pixels": VOXELS[0, :4]}, "size"),
    ],
)
def test_a_foreign_slice_in_a_series_is_named(tmp_path, odd, message):
    folder = series_folder(tmp_path / "case", (0.0, 2.5, 5.0))
    slice_file(folder / "scout.dcm", **({"pixels": VOXELS[0], "z": 7.5} | odd))
    with pytest.raises(ImageError, match=rf"scout\.dcm: its {message} differ.*localizer"):
        read_image([folder])


def test_a_tilted_stack_is_refused_with_its_angle(tmp_path):
    folder = tmp_path / "case"
    for number in range(4):
        tags = {"0020|0032": f"0\\{number * 1.0}\\{number * 2.0}"}.items()
        slice_file(folder / f"{number}.dcm", VOXELS[number], tags=tags)
    with pytest.raises(ImageError, match=r"26\.6 degrees"):
        read_image([folder])


def test_slices_without_a_position_do_not_stack_and_one_alone_is_2d(tmp_path):
    for number in range(2):
        path = slice_file(tmp_path / "xray" / f"{number}.dcm", VOXELS[number], modality="DX")
        position, retired = b"\x20\x00\x32\x00", b"\x20\x00\x30\x00"
        assert position in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(position, retired))
    image = read_image([tmp_path / "xray" / "0.dcm"])
    np.testing.assert_array_equal(image.array[0, 0], VOXELS[0])
    assert image.geometry.dimension == 2
    assert image.spacing[0] == 999 * max(image.spacing[1:])
    with pytest.raises(ImageError, match="do not stack"):
        read_image([tmp_path / "xray"])


def test_one_slice_of_a_series_is_refused_and_alone_in_a_folder_it_is_read(tmp_path):
    folder = series_folder(tmp_path / "case")
    with pytest.raises(ImageError, match=r"one slice of a series \(IM097\.dcm"):
        read_image([folder / "IM096.dcm"])
    alone = slice_file(tmp_path / "alone" / "a.dcm", VOXELS[0], tags={"0018|0050": "3"}.items())
    distance = b"\x18\x00\x88\x00\x02\x00\x00\x00"  # which GDCM sometimes adds, as 1
    alone.write_bytes(alone.read_bytes().replace(distance + b"1 ", distance + b"3 "))
    assert read_image([alone]).array.shape == (1, 1, 6, 7)
    assert read_image([alone]).spacing == (3.0, 0.8, 0.7)


def test_the_frames_of_one_file_are_slices_unless_it_is_a_film(tmp_path):
    for modality in ("CT", "US"):
        image = sitk.GetImageFromArray(VOXELS if modality == "CT" else VOXELS.astype(np.uint8))
        image.SetSpacing((0.7, 0.8, 2.5))
        image.SetMetaData("0008|0060", modality)
        sitk.WriteImage(image, str(tmp_path / f"{modality}.dcm"))
    image = read_image([tmp_path / "CT.dcm"])
    np.testing.assert_array_equal(image.array[0], VOXELS)
    assert image.spacing == (2.5, 0.8, 0.7)
    with pytest.raises(ImageError, match="5 frames are a film"):
        read_image([tmp_path / "US.dcm"])


def test_colour_pictures_have_channels(tmp_path):
    colours = np.random.default_rng(1).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read_image([tmp_path / "a.dcm"]).array[:, 0], np.moveaxis(colours, -1, 0))


def test_where_larger_is_darker_the_image_is_inverted_whatever_it_shows(tmp_path):
    for number in range(2):
        path = slice_file(tmp_path / str(number) / "a.dcm", VOXELS[number])
        content = path.read_bytes()
        assert b"MONOCHROME2" in content
        path.write_bytes(content.replace(b"MONOCHROME2", b"MONOCHROME1"))
        np.testing.assert_array_equal(read_image([path]).array[0, 0], -1.0 - VOXELS[number])


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_slice_is_named(tmp_path, share):
    folder = series_folder(tmp_path / "case")
    content = (folder / "IM097.dcm").read_bytes()
    (folder / "IM097.dcm").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match=r"IM097\.dcm"):
        read_image([folder])


def test_folders_without_dicom_are_refused(tmp_path):
    with pytest.raises(ImageError, match="no DICOM series"):
        read_image([tmp_path])


def test_label_maps_of_dicom_are_nifti_and_dicom_is_not_written(tmp_path):
    folder = series_folder(tmp_path / "case.v2")
    assert label_ending_for(folder) == label_ending_for("a.dcm") == label_ending_for("a.DCM") == ".nii.gz"
    image = read_image([folder])
    with pytest.raises(ImageError, match="DICOM is not written"):
        write_label_map(tmp_path / "a.dcm", np.zeros((5, 6, 7), dtype=np.uint8), image.geometry)
    write_label_map(tmp_path / "a.nii.gz", np.zeros((5, 6, 7), dtype=np.uint8), image.geometry)
    written = read_label_map(tmp_path / "a.nii.gz").geometry
    assert corner_shift(image.geometry, written, (7, 6, 5)) < 1e-5


def test_each_series_of_a_folder_is_a_case_of_prediction(tmp_path):
    series_folder(tmp_path / "in" / "patient1")
    both = series_folder(tmp_path / "in" / "patient2")
    for number in range(2):
        slice_file(both / f"mr{number}.dcm", VOXELS[number], z=number, series="1.2.4", modality="MR")
    slice_file(tmp_path / "in" / "xray_0000.dcm", VOXELS[0], series="1.2.9", modality="DX")
    cases = find_cases(tmp_path / "in", ".nii.gz", 1)
    assert [case.identifier for case in cases] == ["patient1", "patient2_1.2.3", "patient2_1.2.4", "xray"]
    assert [len(read_image(case.images).array[0]) for case in cases] == [5, 5, 2, 1]
    assert [case.identifier for case in find_cases(both / "1.2.4", ".nii.gz", 1)] == ["patient2_1.2.4"]
    assert [case.identifier for case in find_cases(tmp_path / "in" / "patient1", ".nii.gz", 1)] == ["patient1"]


@pytest.mark.skipif("SEGPLAN_TEST_DATA" not in os.environ, reason="SEGPLAN_TEST_DATA names no folder with real data")
def test_a_real_series_lies_on_the_grid_of_its_label_maps():
    folder = Path(os.environ["SEGPLAN_TEST_DATA"]) / "dicom_ct_3slices"
    if not folder.is_dir():
        pytest.skip("the real DICOM series is not there")
    image = read_image([folder / "ct-3slice"])
    assert image.array.shape == (1, 3, 512, 512)
    assert (image.array.min(), image.array.max()) == (-3024, 1381)
    liver = read_label_map(folder / "liver_seg.nrrd")
    assert liver.array.shape == image.array.shape
    assert corner_shift(image.geometry, liver.geometry, (512, 512, 3)) < 0.01
    assert 30 < np.median(image.array[liver.array == 1]) < 150, "liver tissue in HU"
