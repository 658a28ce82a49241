"""NIfTI, NRRD, MetaImage and GIPL against SimpleITK as the independent reader and writer."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from segplan.errors import ImageError
from segplan.imaging import Geometry, read_image, read_label_map, write_label_map

ENDINGS = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl"]


def oblique(array, seed=3):
    """A SimpleITK image with an oblique direction, uneven spacing and a far origin."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7421875, 1.1, 3.3))
    image.SetOrigin((-121.3, 40.7, 811.9))
    image.SetDirection(Rotation.random(random_state=seed).as_matrix().ravel().tolist())
    return image


def write(path, array, seed=3):
    sitk.WriteImage(oblique(array, seed), str(path))
    return path


def volume(dtype, shape=(4, 5, 6)):
    return (np.random.default_rng(0).random(shape) * 100).astype(dtype)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_reads_what_simpleitk_reads(tmp_path, ending, dtype):
    path = write(tmp_path / f"a{ending}", volume(dtype))
    image, expected = read_image([path]), sitk.ReadImage(str(path))
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(expected).astype(np.float32))
    assert image.spacing == expected.GetSpacing()[::-1]
    geometry = image.geometry
    assert geometry.spacing == expected.GetSpacing()
    assert geometry.origin == expected.GetOrigin()
    assert geometry.direction == expected.GetDirection()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("seed", range(8))
def test_a_written_label_map_has_the_geometry_of_the_image(tmp_path, ending, seed):
    source = write(tmp_path / f"image{ending}", volume(np.int16), seed)
    target, labels = tmp_path / f"labels{ending}", volume(np.uint8) % 3
    write_label_map(target, labels, read_image([source]).geometry)
    first, second = sitk.ReadImage(str(source)), sitk.ReadImage(str(target))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(second), labels)
    # NRRD stores the product of direction and spacing, so its last bit may differ.
    tolerance = 1e-15 if ending == ".nrrd" else 0.0
    for part in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(second, part)(), getattr(first, part)(), rtol=tolerance, atol=tolerance)


def test_a_written_nifti_keeps_the_orientation_fields_of_the_image(tmp_path):
    source = write(tmp_path / "image.nii", volume(np.int16))
    header = bytearray(source.read_bytes())
    header[252:256] = b"\x00\x00\x04\x00"  # qform unknown, sform in MNI space
    source.write_bytes(header)
    write_label_map(tmp_path / "labels.nii", volume(np.uint8), read_image([source]).geometry)
    written = (tmp_path / "labels.nii").read_bytes()
    assert written[252:328] == bytes(header[252:328])
    assert written[76:108] == bytes(header[76:108])


@pytest.mark.parametrize("flip", [False, True])
def test_a_nifti_written_from_a_geometry_of_another_format_sits_at_the_same_place(tmp_path, flip):
    image = oblique(volume(np.uint8))
    if flip:  # left-handed axes
        direction = np.array(image.GetDirection()).reshape(3, 3) * [1, -1, 1]
        image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "image.mha"))
    write_label_map(tmp_path / "labels.nii.gz", volume(np.uint8), read_image([tmp_path / "image.mha"]).geometry)
    written = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    np.testing.assert_allclose(written.GetSpacing(), image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(written.GetOrigin(), image.GetOrigin(), rtol=1e-6)
    np.testing.assert_allclose(written.GetDirection(), image.GetDirection(), atol=1e-6)
    qform_only = bytearray(gzip.decompress((tmp_path / "labels.nii.gz").read_bytes()))
    qform_only[254:256] = b"\x00\x00"
    (tmp_path / "qform.nii").write_bytes(qform_only)
    by_quaternion = sitk.ReadImage(str(tmp_path / "qform.nii"))
    np.testing.assert_allclose(by_quaternion.GetDirection(), image.GetDirection(), atol=1e-6)


def test_geometry_survives_json(tmp_path):
    geometry = read_image([write(tmp_path / "a.nii.gz", volume(np.int16))]).geometry
    copy = Geometry.from_json(geometry.to_json())
    assert copy == geometry
    assert copy.header == geometry.header is not None


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_a_2d_file_has_one_slice_and_a_large_slice_distance(tmp_path, ending):
    flat = sitk.GetImageFromArray(np.arange(12, dtype=np.int16).reshape(3, 4))
    flat.SetSpacing((0.5, 2.0))
    sitk.WriteImage(flat, str(tmp_path / f"a{ending}"))
    image = read_image([tmp_path / f"a{ending}"])
    assert image.array.shape == (1, 1, 3, 4)
    assert image.spacing == (999 * 2.0, 2.0, 0.5)
    assert image.geometry.dimension == 2
    write_label_map(tmp_path / f"b{ending}", np.ones((1, 3, 4), dtype=np.uint8), image.geometry)
    written = sitk.ReadImage(str(tmp_path / f"b{ending}"))
    assert (written.GetDimension(), written.GetSize(), written.GetSpacing()) == (2, (4, 3), (0.5, 2.0))


def test_a_4d_file_has_channels_and_its_label_map_is_3d(tmp_path):
    channels = [oblique(volume(np.float32) + number) for number in range(3)]
    sitk.WriteImage(sitk.JoinSeries(channels), str(tmp_path / "a.nii.gz"))
    image = read_image([tmp_path / "a.nii.gz"])
    assert image.array.shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(image.array[2], sitk.GetArrayFromImage(channels[2]))
    write_label_map(tmp_path / "b.nii.gz", np.zeros((4, 5, 6), dtype=np.uint8), image.geometry)
    written = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    assert written.GetSize() == (6, 5, 4)
    np.testing.assert_allclose(written.GetOrigin(), channels[0].GetOrigin(), rtol=1e-6)


def test_vector_pixels_become_channels(tmp_path):
    colours = np.random.default_rng(1).integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_image([tmp_path / "a.nrrd"]).array, np.moveaxis(colours, -1, 0))


def test_scaled_and_big_endian_nifti_read_as_simpleitk_reads_them(tmp_path):
    path = write(tmp_path / "a.nii", volume(np.int16))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.5, -3.0], dtype="<f4").tobytes()
    path.write_bytes(content)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(read_image([path]).array[0], expected)
    assert expected.min() < 0

    swapped = tmp_path / "b.nii"
    header = write(tmp_path / "c.nii", volume(np.int16)).read_bytes()
    big = bytearray(header[:352])
    for start, stop, width in ((0, 4, 4), (40, 56, 2), (70, 74, 2), (76, 120, 4), (252, 256, 2), (256, 328, 4)):
        big[start:stop] = np.frombuffer(header[start:stop], dtype=f"<u{width}").astype(f">u{width}").tobytes()
    swapped.write_bytes(bytes(big) + volume(np.int16).astype(">i2").tobytes())
    image = read_image([swapped])
    np.testing.assert_array_equal(image.array[0], volume(np.int16))
    assert image.geometry.origin == sitk.ReadImage(str(swapped)).GetOrigin()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".gipl"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.98])
def test_a_truncated_file_is_an_image_error(tmp_path, ending, share):
    path = write(tmp_path / f"a{ending}", np.random.default_rng(0).random((12, 20, 20)).astype(np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for read in (lambda: read_image([path]), lambda: read_label_map(path)):
        with pytest.raises(ImageError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert caught.value.remedy


def test_a_flipped_bit_in_a_gzip_is_an_image_error(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.random.default_rng(0).random((40, 60, 60)).astype(np.float32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    assert sitk.ReadImage(str(path)).GetSize() == (60, 60, 40), "ITK reads it: the reason for our own check"
    with pytest.raises(ImageError, match="damaged"):
        read_image([path])


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_files_and_other_content_are_image_errors(tmp_path, ending):
    with pytest.raises(ImageError, match=f"absent{ending}"):
        read_image([tmp_path / f"absent{ending}"])
    (tmp_path / f"text{ending}").write_text("not an image, just text " * 50)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image([tmp_path / f"text{ending}"])


def test_channels_on_different_grids_are_refused(tmp_path):
    first = write(tmp_path / "a_0000.nii.gz", volume(np.int16))
    same = write(tmp_path / "a_0001.nii.gz", volume(np.int16) + 1)
    assert read_image([first, same]).array.shape == (2, 4, 5, 6)
    other_size = write(tmp_path / "b.nii.gz", volume(np.int16, (4, 5, 7)))
    moved, scaled = oblique(volume(np.int16)), oblique(volume(np.int16))
    moved.SetOrigin((-121.3, 41.7, 811.9))
    scaled.SetSpacing((0.75, 1.1, 3.3))
    sitk.WriteImage(moved, str(tmp_path / "c.nii.gz"))
    sitk.WriteImage(scaled, str(tmp_path / "d.nii.gz"))
    for path, message in (
        (other_size, "size 4×5×7"),
        (tmp_path / "c.nii.gz", "1.3 voxels"),
        (tmp_path / "d.nii.gz", "0.75"),
    ):
        with pytest.raises(ImageError, match=message):
            read_image([first, path])


def mirrored(path, offset):
    """A MetaImage with a negative spacing, as ITK keeps it."""
    header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 6 5 4\nElementType = MET_SHORT\n"
    header += f"ElementSpacing = -1 1 1\nOffset = {offset} 0 0\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + volume(np.int16).tobytes())
    return path


def test_channels_on_different_grids_are_refused_where_a_spacing_is_negative(tmp_path):
    first, far = mirrored(tmp_path / "a.mha", 0), mirrored(tmp_path / "b.mha", 50)
    assert read_image([first, mirrored(tmp_path / "c.mha", 0.2)]).spacing == (1.0, 1.0, 1.0)
    with pytest.raises(ImageError, match=r"50\.0 voxels away"):
        read_image([first, far])


def test_gipl_refuses_an_axis_that_runs_backwards(tmp_path):
    geometry = read_image([mirrored(tmp_path / "a.mha", 0)]).geometry
    with pytest.raises(ImageError, match="orientation"):
        write_label_map(tmp_path / "b.gipl", np.zeros((4, 5, 6), dtype=np.uint8), geometry)


def test_gipl_refuses_labels_of_32_bit_and_planes(tmp_path):
    volume_geometry = Geometry(3, (1.0,) * 3, (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    plane_geometry = Geometry(2, (1.0,) * 2, (0.0,) * 2, (1.0, 0.0, 0.0, 1.0))
    for labels, geometry, message in (
        (np.full((2, 2, 2), 70000), volume_geometry, r"\.nii\.gz"),
        (np.ones((1, 2, 2), dtype=np.uint8), plane_geometry, "volumes only"),
    ):
        with pytest.raises(ImageError, match=message):
            write_label_map(tmp_path / "a.gipl", labels, geometry)
    assert not list(tmp_path.iterdir())


def test_names_with_spaces_signs_umlauts_and_chinese_characters_work(tmp_path):
    folder = tmp_path / "größe = 1, (neu) 数据"
    folder.mkdir()
    for ending in ENDINGS:
        path = write(folder / f"fall ü=1, (a) 病例{ending}", volume(np.int16))
        write_label_map(folder / f"标签 ä{ending}", volume(np.uint8), read_image([path]).geometry)
        np.testing.assert_array_equal(read_label_map(folder / f"标签 ä{ending}").array[0], volume(np.uint8))
