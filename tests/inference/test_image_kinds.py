"""The label map comes back as what the image was: array, SimpleITK's, nibabel's, or a file."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_fixture import DATA

from segplan.errors import ImageError
from segplan.imaging import read_label_map
from segplan.inference.image_kinds import image_from_array, segment_as_given

FILES = [DATA / "images" / f"t0_{channel:04d}.nii.gz" for channel in range(2)]


def above_mean(image):
    """Depends on every channel, on the spacing, and on where a voxel lies."""
    assert image.array.dtype == np.float32
    assert image.array.ndim == 4
    weights = np.arange(1, len(image.array) + 1).reshape(-1, 1, 1, 1)
    total = (image.array * weights).sum(0)
    return (total > total.mean() * image.spacing[1]).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = segment_as_given(above_mean, FILES, output=tmp_path_factory.mktemp("out") / "labels.nii.gz")
    labels = read_label_map(path)
    assert labels.array.any()
    assert not labels.array.all()
    return labels


def test_simpleitk_images_come_back_as_such_in_their_geometry(expected):
    images = [sitk.ReadImage(str(path)) for path in FILES]
    result = segment_as_given(above_mean, images)
    assert isinstance(result, sitk.Image)
    assert np.array_equal(sitk.GetArrayFromImage(result), expected.array[0])
    for method in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(result, method)() == getattr(images[0], method)()


def test_channels_of_a_simpleitk_vector_image_count(expected):
    vector = sitk.Compose([sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32) for path in FILES])
    assert np.array_equal(sitk.GetArrayFromImage(segment_as_given(above_mean, vector)), expected.array[0])


def test_a_flat_simpleitk_image_stays_flat():
    flat = sitk.GetImageFromArray(np.arange(30, dtype=np.float32).reshape(5, 6))
    flat.SetSpacing((0.5, 0.25))
    result = segment_as_given(above_mean, flat)
    assert result.GetDimension() == 2
    assert result.GetSpacing() == (0.5, 0.25)
    assert sitk.GetArrayFromImage(result).sum() > 0


def test_nibabel_images_come_back_as_such_with_their_affine(expected):
    nibabel = pytest.importorskip("nibabel")
    images = [nibabel.load(path) for path in FILES]
    result = segment_as_given(above_mean, images)
    assert isinstance(result, nibabel.Nifti1Image)
    assert np.array_equal(result.affine, images[0].affine)
    assert np.array_equal(np.asarray(result.dataobj).transpose(2, 1, 0), expected.array[0])
    stacked = nibabel.Nifti1Image(np.stack([image.get_fdata() for image in images], -1), images[0].affine)
    assert np.array_equal(np.asarray(segment_as_given(above_mean, stacked).dataobj), np.asarray(result.dataobj))


def test_a_nibabel_images_place_is_the_files(expected):
    nibabel = pytest.importorskip("nibabel")
    seen = []
    segment_as_given(lambda image: seen.append(image) or image.array[0].astype(np.uint8), nibabel.load(FILES[0]))
    geometry = seen[0].geometry
    assert np.allclose(geometry.origin, expected.geometry.origin, atol=1e-4)
    assert np.allclose(geometry.direction, expected.geometry.direction, atol=1e-5)
    assert np.allclose(geometry.spacing, expected.geometry.spacing, atol=1e-5)


def test_arrays_come_back_with_the_axes_of_their_spacing():
    volume, picture = np.random.default_rng(0).normal(size=(2, 4, 5, 6)), np.ones((5, 6))
    assert segment_as_given(above_mean, volume, (1, 1, 1)).shape == (4, 5, 6)
    assert segment_as_given(above_mean, picture, (1, 1)).shape == (5, 6)


@pytest.mark.parametrize(
    ("given", "arguments", "said"),
    [
        (np.zeros((3, 3, 3)), {}, "an array has no spacing"),
        (np.zeros((3, 3, 3)), {"spacing": (1, 1, 1), "output": "x.nii.gz"}, "only a path's label map is written"),
        (np.zeros((0, 3, 3)), {"spacing": (1, 1, 1)}, "is empty"),
        (np.zeros((3, 3, 3), complex), {"spacing": (1, 1, 1)}, "no real numbers"),
        (FILES[0], {}, "output is missing"),
        (FILES[0], {"output": "x.foo"}, "known image format"),
        (FILES[0], {"spacing": (1, 1, 1), "output": "x.nii.gz"}, "spacing of its own"),
        ([sitk.Image(3, 3, 3, sitk.sitkFloat32), sitk.Image(3, 3, 4, sitk.sitkFloat32)], {}, "not on one grid"),
    ],
)
def test_what_does_not_fit_together_is_said(given, arguments, said):
    with pytest.raises(ImageError, match=said):
        segment_as_given(above_mean, given, **arguments)


def test_threads_do_not_disturb_each_other(expected):
    images = [sitk.ReadImage(str(path)) for path in FILES]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: segment_as_given(above_mean, images), range(8)))
    assert all(np.array_equal(sitk.GetArrayFromImage(result), expected.array[0]) for result in results)


def test_an_arrays_image_lies_at_the_origin():
    assert image_from_array(np.zeros((2, 3, 4)), (3, 2, 1)).geometry.spacing == (1.0, 2.0, 3.0)
