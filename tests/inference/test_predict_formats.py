"""The same voxels give the same label map whatever format they come in, and it lies where the image lies."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_fixture import DATA, import_fixture
from test_predict_job import config_of

from segplan.imaging import axis_codes, read_label_map
from segplan.imaging.image import corner_shift
from segplan.jobs.predict import run

ORIENTED = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_fixture("3d_fullres", tmp_path_factory.mktemp("runs") / "m")


@pytest.fixture(scope="module")
def channels() -> list[sitk.Image]:
    """Two channels as whole numbers, turned in the plane."""
    images = []
    for number in range(2):
        image = sitk.ReadImage(str(DATA / "images" / f"t0_{number:04d}.nii.gz"), sitk.sitkFloat32)
        image = sitk.Cast(image * (1 if sitk.GetArrayFromImage(image).std() > 10 else 1000), sitk.sitkInt16)
        image.SetDirection(ORIENTED)
        image.SetOrigin((10.0, -20.0, 30.5))
        images.append(image)
    return images


def dicom_series(folder: Path, image: sitk.Image, uid: str) -> None:
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(image.GetSize()[2]):
        piece = image[:, :, z]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0060": "CT",
            "0020|000d": "1.2",
            "0020|000e": uid,
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "0\\-1\\0\\1\\0\\0",
        }
        for key, value in tags.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"IM{999 - z}.dcm"))
        writer.Execute(piece)


def test_every_format_gives_the_label_map_that_nifti_gives(model, channels, tmp_path):
    for ending in (".nii.gz", ".nrrd", ".mha"):
        (tmp_path / ending).mkdir()
        for number, image in enumerate(channels):
            sitk.WriteImage(image, str(tmp_path / ending / f"t0_{number:04d}{ending}"))
        assert run(config_of(model, tmp_path / ending, tmp_path / f"out{ending}")) == 0
    (tmp_path / "4d").mkdir()
    sitk.WriteImage(sitk.JoinSeries(channels), str(tmp_path / "4d" / "t0.nii.gz"))
    assert run(config_of(model, tmp_path / "4d", tmp_path / "out_4d")) == 0
    for number, image in enumerate(channels):
        dicom_series(tmp_path / "dicom" / str(number), image, f"1.2.{number}")
    (tmp_path / "list.csv").write_text("case,first,second\nt0,dicom/0,dicom/1\n")
    assert run(config_of(model, tmp_path / "list.csv", tmp_path / "out_dicom")) == 0

    reference = read_label_map(tmp_path / "out.nii.gz" / "t0.nii.gz")
    assert reference.array.any()
    assert axis_codes(reference.geometry) != "LPS"
    written = ["out.nrrd/t0.nrrd", "out.mha/t0.mha", "out_4d/t0.nii.gz", "out_dicom/t0.nii.gz"]
    for name in written:
        found = read_label_map(tmp_path / name)
        np.testing.assert_array_equal(found.array, reference.array)
        assert corner_shift(reference.geometry, found.geometry, channels[0].GetSize()) < 1e-4
