"""All 48 ways to lay voxels along the body's axes: a label map made by index sits where its image sits."""

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from segplan.errors import ImageError
from segplan.imaging import Geometry, axis_codes, read_image, read_label_map, write_label_map

ORIENTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]
WRITTEN = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def direction(axes, signs):
    matrix = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        matrix[axis, column] = sign
    return matrix


def source(folder, ending, axes, signs):
    """A volume whose values say where in the world its voxels lie."""
    matrix, spacing, origin = direction(axes, signs), np.array([0.5, 1.25, 3.0]), np.array([-7.0, 11.5, 100.25])
    image = sitk.Image(5, 4, 3, sitk.sitkFloat32)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(matrix.ravel().tolist())
    grid = np.stack(np.meshgrid(*(np.arange(extent) for extent in (5, 4, 3)), indexing="ij"), axis=-1)
    world = origin + (grid * spacing) @ matrix.T
    right = (world[..., 0] < origin[0] + 0.1 * matrix[0].sum()).astype(np.uint8)
    labels = (right + 2 * (grid[..., 2] == 1)).transpose(2, 1, 0)
    sitk.WriteImage(image, str(folder / f"image{ending}"))
    return folder / f"image{ending}", labels, image


def affine_lps(image):
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return matrix


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_labels_written_by_index_lie_at_the_same_world_coordinates(tmp_path, axes, signs):
    for ending in WRITTEN:
        path, labels, image = source(tmp_path, ending, axes, signs)
        read = read_image([path])
        for target in {ending, ".nii.gz"}:
            out = tmp_path / f"labels{target}"
            write_label_map(out, labels, read.geometry)
            written = sitk.ReadImage(str(out))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(written), labels)
            np.testing.assert_array_equal(affine_lps(written), affine_lps(image))
            np.testing.assert_array_equal(read_label_map(out).array[0], labels)
            if ".nii" in target:
                other = nibabel.load(out)
                np.testing.assert_array_equal(np.asarray(other.dataobj).T, labels)
                np.testing.assert_allclose(TO_LPS @ other.affine, affine_lps(image), atol=1e-6)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_the_letters_of_the_axes_are_nibabels(axes, signs):
    matrix = direction(axes, signs)
    geometry = Geometry(3, (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), tuple(matrix.ravel()))
    affine = np.eye(4)
    affine[:3, :3] = matrix
    assert axis_codes(geometry) == "".join(nibabel.aff2axcodes(TO_LPS @ affine))


def test_channels_of_different_orientation_are_refused_and_cases_keep_their_own(tmp_path):
    first, _, _ = source(tmp_path, ".nii.gz", (0, 1, 2), (1, 1, 1))
    (tmp_path / "other").mkdir()
    second, _, _ = source(tmp_path / "other", ".nii.gz", (0, 1, 2), (-1, 1, 1))
    with pytest.raises(ImageError, match="origin or direction places it"):
        read_image([first, second])
    assert [axis_codes(read_image([path]).geometry) for path in (first, second)] == ["LPS", "RPS"]


@pytest.mark.parametrize("ending", [".gipl", ".tif"])
def test_formats_that_cannot_hold_an_orientation_refuse_it(tmp_path, ending):
    path, labels, _ = source(tmp_path, ".mha", (1, 0, 2), (1, 1, -1))
    with pytest.raises(ImageError, match=r"orientation.*\.nii\.gz"):
        write_label_map(tmp_path / f"labels{ending}", labels, read_image([path]).geometry)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii", ".nii.gz"])
def test_a_negative_spacing_is_positive_for_planning_and_the_labels_sit_where_the_image_sits(tmp_path, ending):
    path, labels, _ = source(tmp_path, ".mha", (0, 1, 2), (1, 1, 1))
    content = path.read_bytes()
    assert b"ElementSpacing = 0.5 1.25 3" in content
    path.write_bytes(content.replace(b"ElementSpacing = 0.5 1.25 3", b"ElementSpacing = 0.5 -1.25 3"))
    image = read_image([path])
    assert image.spacing == (3.0, 1.25, 0.5)
    write_label_map(tmp_path / f"labels{ending}", labels, image.geometry)
    expected = np.array([[0.5, 0, 0, -7], [0, -1.25, 0, 11.5], [0, 0, 3, 100.25], [0, 0, 0, 1]])
    np.testing.assert_array_equal(affine_lps(sitk.ReadImage(str(tmp_path / f"labels{ending}"))), expected)


@pytest.mark.parametrize(
    ("ending", "good", "bad", "message"),
    [
        (".mha", b"ElementSpacing = 0.5", b"ElementSpacing = 0", "spacing is zero"),
        (".mha", b"TransformMatrix = 1 0 0", b"TransformMatrix = 1 0.1 0", "not orthonormal"),
        (".nrrd", b"(0.5,0,0)", b"(0,0,0)", "cannot be read|spacing is zero"),
        (".nrrd", b"(0.5,0,0)", b"(0.5,0.05,0)", "not orthonormal"),
    ],
)
def test_grids_that_are_none_are_refused(tmp_path, ending, good, bad, message):
    path, _, _ = source(tmp_path, ending, (0, 1, 2), (1, 1, 1))
    content = path.read_bytes()
    assert good in content
    path.write_bytes(content.replace(good, bad))
    with pytest.raises(ImageError, match=message) as caught:
        read_image([path])
    assert caught.value.remedy
