"""Which files an image consists of, and that a change to any of them is noticed."""

import os

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from segplan.dataset import Case
from segplan.dataset.source_files import files_of
from segplan.jobs.inspection import hash_of_case


@pytest.fixture(params=["series", "tiff", "tiff named as the case", "header", "compressed header"])
def image(request, tmp_path):
    """An image of more than one file: its path, and the file that the path does not name."""
    voxels = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    if request.param == "series":
        path = tmp_path / "a_0000"
        path.mkdir()
        second = path / "1.dcm"
        second.write_bytes(b"slice")
    elif request.param.startswith("tiff"):
        path = tmp_path / "a_0000.tif"
        tifffile.imwrite(path, sitk.GetArrayFromImage(voxels), photometric="minisblack")
        second = tmp_path / ("a.json" if request.param.endswith("case") else "a_0000.json")
        second.write_text('{"spacing": [2, 1, 1]}')
    else:
        path = tmp_path / "a_0000.mhd"
        compressed = request.param.startswith("compressed")
        sitk.WriteImage(voxels, str(path), compressed)
        second = tmp_path / ("a_0000.zraw" if compressed else "a_0000.raw")
    return path, second


def test_the_second_file_belongs_to_the_image(image):
    path, second = image
    assert files_of(path) == [path, second]


def test_a_changed_second_file_changes_the_cases_hash(image):
    path, second = image
    case = Case("a", (path,), None)
    before, status = hash_of_case(case), path.stat()
    assert hash_of_case(case) == before
    os.utime(second, (1, 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_of_case(case) != before


def test_other_files_beside_an_image_do_not_belong_to_it(tmp_path):
    for name in ("a.nii.gz", "a.json", "a.raw", "b.png", "b.json", "c.tif", "d.json"):
        (tmp_path / name).write_bytes(b"x")
    sitk.WriteImage(sitk.Image(3, 4, 5, sitk.sitkUInt8), str(tmp_path / "e.mha"))
    (tmp_path / "local.mhd").write_bytes((tmp_path / "e.mha").read_bytes())
    for name in ("a.nii.gz", "b.png", "c.tif", "e.mha", "local.mhd"):
        assert files_of(tmp_path / name) == [tmp_path / name]


def test_a_link_into_nowhere_is_no_reason_to_fail(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "nowhere")
    case = Case("a", (tmp_path / "a.nii.gz",), None)
    before = hash_of_case(case)
    (tmp_path / "nowhere").write_bytes(b"now it is somewhere")
    assert hash_of_case(case) != before
