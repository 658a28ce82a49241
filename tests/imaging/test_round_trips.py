"""Write, then read, is the identity: every format, integer type, shape and geometry that is claimed to be written."""

import math

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as Pillow
from scipy.spatial.transform import Rotation

from segplan.imaging import Geometry, read_image, read_label_map, write_label_map

SMALL = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
SIGNED = ("i1", "i2", "i4", "i8")
UNSIGNED = ("u1", "u2", "u4", "u8")
DTYPES = {
    ".nii": SIGNED + UNSIGNED,
    ".nii.gz": SIGNED + UNSIGNED,
    ".nrrd": SIGNED + UNSIGNED,
    ".mha": SIGNED + UNSIGNED,
    ".mhd": SIGNED + UNSIGNED,
    ".gipl": ("u1", "i1", "u2", "i2"),
    ".tif": ("u1", "i1", "u2", "i2", "u4", "i4"),
    ".tiff": ("u1", "i1", "u2", "i2", "u4", "i4"),
    ".png": ("u1", "u2"),
    ".bmp": ("u1",),
}
FLAT_ONLY = (".png", ".bmp")
NO_ORIENTATION = (".gipl", ".tif", ".tiff", *FLAT_ONLY)
SHAPES = st.one_of(
    st.tuples(*[st.integers(1, 6)] * 3), st.sampled_from([(1, 1, 9), (1, 9, 1), (9, 1, 1), (1, 1, 1), (1, 5, 6)])
)
MM = st.floats(2**-6, 64, width=32)
PLACE = st.floats(-512, 512, width=32)


@st.composite
def geometries(draw, dimension, oriented):
    spacing = tuple(draw(MM) for _ in range(dimension))
    if not oriented:
        return Geometry(dimension, spacing, (0.0,) * dimension, tuple(np.eye(dimension).ravel().tolist()))
    if dimension == 2:
        angle = draw(st.floats(-3, 3))
        matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    else:
        matrix = Rotation.random(random_state=draw(st.integers(0, 9999))).as_matrix()
    if draw(st.booleans()):
        matrix[:, 0] *= -1
    return Geometry(dimension, spacing, tuple(draw(PLACE) for _ in range(dimension)), tuple(matrix.ravel().tolist()))


def affine(geometry):
    return np.array(geometry.direction).reshape(geometry.dimension, -1) * geometry.spacing


@pytest.mark.parametrize(("ending", "dtype"), [(ending, dtype) for ending, kinds in DTYPES.items() for dtype in kinds])
@SMALL
@given(data=st.data())
def test_labels_of_every_type_and_shape_come_back(tmp_path, ending, dtype, data):
    flat = ending in FLAT_ONLY or (ending != ".gipl" and data.draw(st.booleans()))
    shape = data.draw(SHAPES)
    labels = data.draw(arrays.arrays(dtype, (1, *shape[1:]) if flat else shape))
    dimension = 2 if flat else 3
    geometry = data.draw(geometries(dimension, ending not in NO_ORIENTATION))
    path = tmp_path / f"labels{ending}"
    write_label_map(path, labels, geometry)
    read = read_label_map(path)
    np.testing.assert_array_equal(read.array[0], labels)
    assert read.array.dtype == smallest(labels)
    if ending in FLAT_ONLY or (flat and ending.startswith(".tif")):
        return  # pictures have no size
    assert read.geometry.dimension == dimension
    np.testing.assert_allclose(read.geometry.spacing, geometry.spacing, rtol=1e-6)
    if not (flat and ending.startswith(".nii")):  # NIfTI: a plane turned in itself has its place in 3D
        np.testing.assert_allclose(read.geometry.origin, geometry.origin, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(affine(read.geometry), affine(geometry), atol=1e-4)


def smallest(labels):
    for dtype in UNSIGNED if labels.min() >= 0 else SIGNED:
        if np.iinfo(dtype).min <= int(labels.min()) and int(labels.max()) <= np.iinfo(dtype).max:
            return dtype
    raise AssertionError("no integer type holds them")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
@SMALL
@given(data=st.data())
def test_the_geometry_of_a_file_goes_back_bit_by_bit(tmp_path, ending, data):
    """Read, write, read, write: the second and third geometries are the first one, and so are the headers."""
    geometry = data.draw(geometries(3, oriented=True))
    image = sitk.Image(3, 4, 5, sitk.sitkInt16)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(tmp_path / f"image{ending}"))
    first = read_image([tmp_path / f"image{ending}"]).geometry
    write_label_map(tmp_path / f"once{ending}", np.zeros((5, 4, 3), dtype=np.uint8), first)
    second = read_label_map(tmp_path / f"once{ending}").geometry
    assert second == first
    assert second.header == first.header
    theirs = (sitk.ReadImage(str(tmp_path / f"{name}{ending}")) for name in ("image", "once"))
    image, once = ((a.GetSpacing(), a.GetOrigin(), a.GetDirection()) for a in theirs)
    assert image == once
    stored = Geometry.from_json(first.to_json())
    write_label_map(tmp_path / f"twice{ending}", np.zeros((5, 4, 3), dtype=np.uint8), stored)
    assert (tmp_path / f"twice{ending}").read_bytes() == (tmp_path / f"once{ending}").read_bytes()


@SMALL
@given(labels=arrays.arrays(st.sampled_from(SIGNED + UNSIGNED), SHAPES))
def test_nibabel_reads_the_same_labels(tmp_path, labels):
    write_label_map(tmp_path / "a.nii.gz", labels, Geometry(3, (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).ravel())))
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj).T, labels)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@SMALL
@given(data=st.data())
def test_images_of_every_type_and_shape_are_read_as_itk_reads_them(tmp_path, ending, dtype, data):
    elements = st.floats(-1e6, 1e6, width=32) if dtype[0] == "f" else None
    voxels = data.draw(arrays.arrays(dtype, data.draw(SHAPES), elements=elements))
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / f"a{ending}"))
    image = read_image([tmp_path / f"a{ending}"])
    assert image.array.shape == (1, *voxels.shape)
    np.testing.assert_array_equal(image.array[0], voxels.astype(np.float32))


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
@SMALL
@given(colours=arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([3, 4]))))
def test_colour_pictures_are_read_as_pillow_wrote_them(tmp_path, ending, colours):
    if ending == ".bmp":
        colours = colours[..., :3]
    Pillow.fromarray(colours).save(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(
        read_image([tmp_path / f"a{ending}"]).array[:, 0], np.moveaxis(colours[..., :3], -1, 0)
    )
