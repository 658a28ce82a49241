import numpy as np
import pytest
from PIL import Image as Pillow

from segplan.reporting import write_overlay
from segplan.reporting.planes import busiest_slice, cut_planes, grey_window
from segplan.reporting.style import class_colour


@pytest.fixture
def volume():
    """A box of class 1 and a small one of class 2; the prediction misses class 2."""
    reference = np.zeros((10, 40, 60), np.uint8)
    reference[2:8, 10:30, 10:30] = 1
    reference[6:8, 32:36, 40:44] = 2
    image = np.where(reference > 0, 100, 0).astype(np.float32)[None]
    return image, reference, np.where(reference == 2, 0, reference).astype(np.uint8)


def pixels_of(picture, colour):
    return int(np.sum(np.all(np.asarray(picture) == colour, axis=-1)))


def test_the_picture_shows_each_class_in_its_colour(tmp_path, volume):
    image, reference, prediction = volume
    path = tmp_path / "Fall ä" / "x.png"
    write_overlay(path, image, reference, prediction, (3.0, 1.0, 1.0), names={1: "liver", 2: "lesion"}, title="case x")
    picture = Pillow.open(path)
    assert picture.mode == "RGB"
    width = picture.width
    right = picture.crop((2 * width // 3, 70, width, picture.height - 60))
    middle = picture.crop((width // 3, 70, 2 * width // 3, picture.height - 60))
    left = picture.crop((0, 70, width // 3, picture.height - 60))
    assert pixels_of(left, class_colour(1)) == pixels_of(left, class_colour(2)) == 0
    assert pixels_of(middle, class_colour(1)) > 200
    assert pixels_of(middle, class_colour(2)) > 20
    assert pixels_of(right, class_colour(1)) > 200
    assert pixels_of(right, class_colour(2)) == 0


def test_planes_have_one_scale_corrected_by_the_spacing(volume):
    image, reference, prediction = volume
    spacing = (3.0, 1.0, 0.5)
    axial, coronal, sagittal = cut_planes(image, reference, prediction, spacing)
    scale = axial.pixels[0] / 40
    assert axial.pixels == pytest.approx((40 * scale, 30 * scale), abs=1)
    assert coronal.pixels == pytest.approx((30 * scale, 30 * scale), abs=1)
    assert sagittal.pixels == pytest.approx((30 * scale, 40 * scale), abs=1)


def test_planes_pass_through_small_classes_and_show_the_last_slice_on_top(volume):
    image, reference, prediction = volume
    axial, coronal, sagittal = cut_planes(image, reference, prediction, (1.0, 1.0, 1.0))
    assert set(np.unique(axial.reference)) == {0, 1, 2}
    assert busiest_slice(reference, 0) in (6, 7)
    index = busiest_slice(reference, 1)
    assert np.array_equal(coronal.reference, reference[::-1, index, :])
    assert np.array_equal(coronal.image, image[:, ::-1, index, :])
    assert np.array_equal(sagittal.prediction, prediction[::-1, :, busiest_slice(reference, 2)])
    assert busiest_slice(np.zeros((5, 4, 4), np.uint8), 0) == 2


def test_pictures_in_colour_have_one_plane_and_keep_their_colours(tmp_path):
    rng = np.random.default_rng(0)
    image = np.broadcast_to(np.array([200, 40, 90], np.float32)[:, None, None, None], (3, 1, 64, 96))
    labels = (rng.random((1, 64, 96)) > 2).astype(np.uint8)
    (plane,) = cut_planes(image, labels, labels, (999.0, 1.0, 1.0))
    assert plane.pixels == (320, 480)
    write_overlay(tmp_path / "p.png", image, labels, labels, (999.0, 1.0, 1.0), names={1: "a"}, title="picture")
    assert pixels_of(Pillow.open(tmp_path / "p.png"), (200, 40, 90)) == 3 * 320 * 480


def test_without_a_reference_image_and_prediction_are_shown(tmp_path, volume):
    image, reference, prediction = volume
    names = {1: "liver", 2: "lesion"}
    write_overlay(tmp_path / "two.png", image, None, prediction, (1.0, 1.0, 1.0), names=names, title="t")
    write_overlay(tmp_path / "three.png", image, reference, prediction, (1.0, 1.0, 1.0), names=names, title="t")
    assert Pillow.open(tmp_path / "two.png").width < Pillow.open(tmp_path / "three.png").width


def test_no_foreground_and_a_constant_image_still_make_a_picture(tmp_path):
    nothing = np.zeros((4, 5, 6), np.uint8)
    write_overlay(
        tmp_path / "n.png", np.zeros((1, 4, 5, 6), np.float32), nothing, nothing, (1.0, 1.0, 1.0), names={}, title=""
    )
    assert Pillow.open(tmp_path / "n.png").width > 100


def test_many_classes_wrap_in_the_legend_and_have_distinct_colours(tmp_path):
    labels = np.arange(5 * 5 * 5, dtype=np.uint8).reshape(5, 5, 5)
    names = {value: f"structure number {value}" for value in range(1, 125)}
    write_overlay(
        tmp_path / "m.png", labels[None].astype(np.float32), labels, labels, (1.0, 1.0, 1.0), names=names, title="m"
    )
    assert len({class_colour(value) for value in range(1, 125)}) > 110


def test_the_grey_window_follows_the_structures_rather_than_air_and_bone():
    channel = np.full((1, 40, 40), -1000, np.float32)
    channel[0, 10:30, 10:30] = np.linspace(0, 100, 400).reshape(20, 20)
    channel[0, 0, :20] = 2000
    labels = np.zeros((1, 40, 40), np.uint8)
    labels[0, 10:30, 10:30] = 1
    low, high = grey_window(channel, labels)
    assert -200 < low < 0
    assert 100 < high < 300
