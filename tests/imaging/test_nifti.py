"""NIfTI headers of all kinds, against nibabel and ITK; files that ITK reads in silence though they are broken."""

import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from segplan.errors import ImageError
from segplan.imaging import Geometry, read_image, read_label_map, write_label_map

AFFINE = np.array([[0.7, 0.0, 0.0, 12.5], [0.0, 0.0, -2.5, -3.25], [0.0, 1.1, 0.0, 40.0], [0, 0, 0, 1]])
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
KINDS = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}


def save(path, array, version=1, order="<", affine=AFFINE, edit=None):
    header = KINDS[version].header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    KINDS[version](array, affine, header).to_filename(path)
    if edit is not None:
        content = bytearray(path.read_bytes())
        edit(content)
        path.write_bytes(content)
    return path


def volume(dtype, shape=(3, 4, 5)):
    return (np.random.default_rng(0).random(shape) * 100).astype(dtype)


def affine_lps(geometry):
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(geometry.direction).reshape(3, 3) * geometry.spacing
    matrix[:3, 3] = geometry.origin
    return matrix


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_number_type_byte_order_and_version_reads_as_nibabel_reads_it(tmp_path, version, order, dtype):
    path = save(tmp_path / "a.nii.gz", volume(dtype), version, order)
    expected = nibabel.load(path)
    image = read_image([path])
    np.testing.assert_array_equal(image.array[0], np.asarray(expected.dataobj).T.astype(np.float32))
    np.testing.assert_allclose(TO_LPS @ affine_lps(image.geometry), expected.affine, atol=1e-6)
    write_label_map(tmp_path / "b.nii.gz", volume("u1").T, image.geometry)
    written = nibabel.load(tmp_path / "b.nii.gz")
    assert type(written) is KINDS[version]
    np.testing.assert_array_equal(written.affine, expected.affine)
    for field in ("pixdim", "qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "srow_y", "xyzt_units"):
        np.testing.assert_array_equal(written.header[field], expected.header[field])


@pytest.mark.parametrize("by", ["sform", "qform", "pixdim"])
@pytest.mark.parametrize("seed", range(4))
def test_nifti_2_sits_where_nibabel_has_it(tmp_path, by, seed):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() * [0.7, 1.1, 2.5]
    affine[:3, 3] = (5, -6, 7)
    if seed % 2:
        affine[:3, 0] *= -1
    image = nibabel.Nifti2Image(volume("i2"), affine)
    image.set_sform(affine, 1 if by == "sform" else 0)
    image.set_qform(affine, 1 if by == "qform" else 0)
    image.to_filename(tmp_path / "a.nii")
    geometry = read_image([tmp_path / "a.nii"]).geometry
    if by == "pixdim":  # nibabel centres such a grid, ITK (and so nnU-Net) has it at the origin
        assert geometry.origin == (0.0, 0.0, 0.0)
        np.testing.assert_allclose(geometry.spacing, (0.7, 1.1, 2.5), rtol=1e-12)
    else:
        np.testing.assert_allclose(TO_LPS @ affine_lps(geometry), nibabel.load(tmp_path / "a.nii").affine, atol=1e-6)


def test_nifti_2_pixels_in_the_plane_and_micrometres(tmp_path):
    def in_micrometres(content):
        struct.pack_into("<i", content, 500, 3)

    affine = np.diag([500.0, 250.0, 1.0, 1.0])
    image = read_image([save(tmp_path / "a.nii", volume("i2", (3, 4)), 2, affine=affine, edit=in_micrometres)])
    assert image.array.shape == (1, 1, 4, 3)
    np.testing.assert_allclose(image.spacing, (999 * 0.5, 0.25, 0.5), rtol=1e-12)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -3), (-1, 0), (1, 5), (0, 0), (np.inf, 0), (1e-3, 1e3)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_scaling_is_as_itk_has_it(tmp_path, slope, intercept, dtype):
    def scale(content):
        struct.pack_into("<2f", content, 112, slope, intercept)

    array = volume("f8", (3, 4, 5)) * (1e6 if dtype == "i4" else 1)
    path = save(tmp_path / "a.nii", array.astype(dtype), edit=scale)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32))
    np.testing.assert_array_equal(read_image([path]).array[0], expected)


def test_a_slope_with_an_intercept_that_is_no_number_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", volume("i2"), edit=lambda content: struct.pack_into("<2f", content, 112, 2, np.nan))
    with pytest.raises(ImageError, match="scl_inter no number"):
        read_image([path])


@pytest.mark.parametrize("slope", [0, np.nan])
def test_without_a_slope_the_intercept_does_not_count(tmp_path, slope):
    """So the standard has it; ITK adds the intercept all the same."""
    path = save(tmp_path / "a.nii", volume("i2"), edit=lambda content: struct.pack_into("<2f", content, 112, slope, 5))
    np.testing.assert_array_equal(read_image([path]).array[0], volume("i2").T)


def test_nifti_2_is_scaled_too(tmp_path):
    def scale(content):
        struct.pack_into("<2d", content, 176, 0.25, -10)

    path = save(tmp_path / "a.nii", volume("i2"), 2, edit=scale)
    np.testing.assert_array_equal(read_image([path]).array[0], volume("i2").T * 0.25 - 10)


@pytest.mark.parametrize(
    "shape", [(3, 4, 5, 2), (3, 4, 5, 1), (3, 4, 5, 1, 2), (3, 4, 1), (3, 1, 5), (1, 1, 7), (3, 4, 1, 2)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_further_axes_are_channels_and_thin_volumes_keep_their_axes(tmp_path, shape, version):
    array = volume("i2", shape)
    image = read_image([save(tmp_path / "a.nii.gz", array, version)])
    channels = array.reshape(*shape[:3], -1)
    assert image.geometry.dimension == 3
    np.testing.assert_array_equal(image.array, channels.transpose(3, 2, 1, 0))


def test_time_points_with_channels_are_refused(tmp_path):
    with pytest.raises(ImageError, match="3×4×5×2×2"):
        read_image([save(tmp_path / "a.nii", volume("i2", (3, 4, 5, 2, 2)))])


@pytest.mark.parametrize("components", [3, 4])
def test_colour_voxels_are_channels(tmp_path, components):
    kind = np.dtype([(letter, "u1") for letter in "RGBA"[:components]])
    colours = np.random.default_rng(0).integers(0, 255, (3, 4, 5, components), dtype=np.uint8)
    path = save(tmp_path / "a.nii.gz", colours.view(kind)[..., 0])
    np.testing.assert_array_equal(read_image([path]).array, colours.transpose(3, 2, 1, 0))


@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_complex_numbers_are_refused(tmp_path, dtype):
    with pytest.raises(ImageError, match="complex"):
        read_image([save(tmp_path / "a.nii", volume(dtype))])


def test_header_extensions_are_skipped(tmp_path):
    image = nibabel.Nifti1Image(volume("i2"), AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"patient moved " * 20))
    image.to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image([tmp_path / "a.nii.gz"]).array[0], volume("i2").T)


def test_a_picture_wider_than_nifti_1_can_say_is_written_as_nifti_2(tmp_path):
    geometry = Geometry(2, (0.5, 2.0), (1.0, 2.0), (1.0, 0.0, 0.0, 1.0))
    labels = (np.arange(40000) % 3).astype(np.uint8).reshape(1, 1, -1)
    write_label_map(tmp_path / "a.nii.gz", labels, geometry)
    assert nibabel.load(tmp_path / "a.nii.gz").shape == (40000, 1)
    read = read_label_map(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.array[0], labels)
    assert read.geometry == geometry


def field(kind, offset, *values):
    return lambda content: struct.pack_into(f"<{kind}", content, offset, *values)


def cut(length):
    def edit(content):
        del content[length:]

    return edit


@pytest.mark.parametrize(
    ("version", "edit", "message"),
    [
        (1, cut(348), "truncated within its header"),
        (1, cut(100), "no NIfTI header"),
        (1, cut(-1), "471 of the 472"),
        (2, cut(-5), "659 of the 664"),
        (2, cut(300), "truncated within its header"),
        (1, field("h", 40, 0), "axes of"),
        (1, field("h", 40, 8), "axes of"),
        (1, field("h", 42, -3), "axes of"),
        (1, field("h", 42, 0), "axes of"),
        (1, field("3h", 42, 32767, 32767, 32767), "70362301"),
        (2, field("3q", 24, 10**6, 10**6, 10**6), "20000000"),
        (1, field("f", 108, -5), "vox_offset"),
        (1, field("f", 108, 0), "vox_offset"),
        (1, field("f", 108, np.nan), "vox_offset"),
        (1, field("f", 108, 1e30), "bytes that its header announces"),
        (1, field("2h", 70, 1, 1), "1 bit"),
        (1, field("2h", 70, 0, 0), "unknown"),
        (1, field("2h", 70, 77, 16), r"unknown \(77\)"),
        (1, field("2h", 70, 1536, 128), "float128"),
        (1, field("4s", 344, b"ni1\x00"), r"pair of \.hdr and \.img"),
        (1, field("4s", 344, b"\0\0\0\0"), "no NIfTI header"),
        (1, field("f", 280, np.nan), "sform in its header is not finite"),
        (1, field("f", 80, np.inf), "pixdim in its header is not finite"),
        (1, field("4f", 280, 0, 0, 0, 0), "orthonormal"),
        (1, field("f", 284, 0.3), "orthonormal"),
        (2, field("d", 400 + 8, 0.3), "orthonormal"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_in_words(tmp_path, version, edit, message):
    path = save(tmp_path / "a.nii", volume("i2"), version, edit=edit)
    with pytest.raises(ImageError, match=message) as caught:
        read_image([path])
    assert str(path) in str(caught.value)
    assert caught.value.remedy
