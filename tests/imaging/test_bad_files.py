"""Empty, truncated, misnamed, absent and oversized files of every format: one error each, with file and remedy."""

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from segplan.errors import ImageError
from segplan.imaging import IMAGE_ENDINGS, read_image, read_label_map

PICTURES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
RNG = np.random.default_rng(0)


def good(folder, ending):
    """A file of the format, and not so small that a cut could miss its data."""
    path = folder / f"good{ending}"
    if ending in PICTURES:
        Pillow.fromarray(RNG.integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    else:
        voxels = RNG.integers(0, 4000, (20, 30, 40)).astype(np.int16)
        image = sitk.GetImageFromArray(voxels)
        image.SetMetaData("0008|0060", "CT")  # DICOM wants it
        sitk.WriteImage(image, str(path))
    return path


def refused(path, message=None):
    for read in (lambda: read_image([path]), lambda: read_label_map(path)):
        with pytest.raises(ImageError, match=message) as caught:
            read()
        assert path.name in str(caught.value)
        assert caught.value.remedy
    return True


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_absent_empty_and_folders_are_refused(tmp_path, ending):
    refused(tmp_path / f"absent{ending}", "no DICOM series|no such file" if ending == ".dcm" else "no such file")
    (tmp_path / f"empty{ending}").write_bytes(b"")
    refused(tmp_path / f"empty{ending}", "the file is empty")
    (tmp_path / f"folder{ending}").mkdir()
    refused(tmp_path / f"folder{ending}", "no DICOM series" if ending == ".dcm" else "it is a folder")


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
@pytest.mark.parametrize("share", [0.002, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(tmp_path, ending, share):
    path = good(tmp_path, ending)
    if ending == ".mhd":
        path = path.with_suffix(".raw")  # the voxels; the header beside it stays
    content = path.read_bytes()
    path.write_bytes(content[: max(1, int(share * len(content)))])
    refused(path.with_suffix(".mhd") if ending == ".mhd" else path)


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_content_of_another_format_is_refused(tmp_path, ending):
    for other in (".nii", ".nrrd", ".mha", ".png", ".jpg"):
        # Some are known by their content whatever they are called, and read right.
        if any(ending in family and other in family for family in (PICTURES, (".nii", ".nii.gz"), (".mha", ".mhd"))):
            continue
        if other == ending:
            continue
        path = tmp_path / f"wrong{ending}"
        path.write_bytes(good(tmp_path, other).read_bytes())
        refused(path)


@pytest.mark.parametrize("name", ["a", "a.npy", "a.hdr", "a.img", "a.txt", "a.nii.zip"])
def test_unknown_endings_are_refused_with_those_that_are_known(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything" * 100)
    refused(tmp_path / name, r"no known image format\. .*\.nii\.gz")


def test_a_detached_header_without_its_voxels_is_refused(tmp_path):
    good(tmp_path, ".mhd").with_suffix(".raw").unlink()
    refused(tmp_path / "good.mhd")


@pytest.mark.parametrize(
    ("ending", "sizes", "huge"),
    [
        (".nrrd", b"sizes: 40 30 20", b"sizes: 99999 99999 99999"),
        (".mha", b"DimSize = 40 30 20", b"DimSize = 99999 99999 99999"),
        (".mha", b"DimSize = 40 30 20", b"DimSize = 0 30 20"),
        (".mha", b"DimSize = 40 30 20", b"DimSize = -40 30 20"),
    ],
)
def test_a_header_that_announces_an_impossible_size_allocates_nothing(tmp_path, ending, sizes, huge):
    path = good(tmp_path, ending)
    content = path.read_bytes()
    assert sizes in content
    path.write_bytes(content.replace(sizes, huge))
    refused(path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".tif"])
def test_nan_and_infinity_stay_in_images_and_are_refused_in_label_maps(tmp_path, ending):
    voxels = np.zeros((3, 4, 5), dtype=np.float32)
    voxels[0, 0, :2] = np.nan, np.inf
    if ending == ".tif":
        import tifffile

        tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(read_image([tmp_path / f"a{ending}"]).array[0], voxels)
    with pytest.raises(ImageError, match="2 voxels are not whole numbers"):
        read_label_map(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_a_damaged_header_is_an_error_or_an_image_but_never_a_crash(tmp_path, ending):
    path = good(tmp_path, ending)
    content, rng = path.read_bytes(), np.random.default_rng(1)
    outcomes = []
    for _ in range(12):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 400), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            outcomes.append(read_image([path]).array.ndim)
        except ImageError as error:
            outcomes.append(0 if error.remedy else -1)
    assert set(outcomes) <= {0, 4}
