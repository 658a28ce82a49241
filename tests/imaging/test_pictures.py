"""PNG, BMP, TIFF and JPEG in all the kinds that datasets come in."""

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from segplan.errors import ImageError
from segplan.imaging import read_image, read_label_map, write_label_map

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 255, (5, 7, 3), dtype=np.uint8)
LOSSLESS = [".png", ".bmp", ".tif", ".tiff"]


def save(path, array, mode=None):
    picture = Pillow.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path)
    return path


@pytest.mark.parametrize("ending", LOSSLESS)
def test_grey_and_colour_keep_their_values(tmp_path, ending):
    grey = read_image([save(tmp_path / f"g{ending}", GREY)])
    colour = read_image([save(tmp_path / f"c{ending}", RGB)])
    assert grey.array.dtype == colour.array.dtype == np.float32
    np.testing.assert_array_equal(grey.array, GREY[None, None])
    np.testing.assert_array_equal(colour.array[:, 0], np.moveaxis(RGB, -1, 0))
    assert colour.spacing == (999.0, 1.0, 1.0)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_transparency_is_dropped(tmp_path, ending):
    alpha = np.concatenate([RGB, RNG.integers(0, 255, (5, 7, 1), dtype=np.uint8)], axis=-1)
    colour = read_image([save(tmp_path / f"c{ending}", alpha)])
    np.testing.assert_array_equal(colour.array[:, 0], np.moveaxis(RGB, -1, 0))
    grey = read_image([save(tmp_path / f"g{ending}", np.stack([GREY, alpha[..., 3]], axis=-1))])
    np.testing.assert_array_equal(grey.array[:, 0], GREY[None])


def test_a_palette_is_colour_in_images_and_numbers_in_label_maps(tmp_path):
    labels = GREY % 4
    picture = Pillow.fromarray(labels)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 255])
    picture.save(tmp_path / "a.png")
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 255]])[labels]
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[:, 0], np.moveaxis(colours, -1, 0))
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array[0, 0], labels)


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_one_bit_pictures_hold_zero_and_one(tmp_path, ending):
    binary = GREY > 100
    path = save(tmp_path / f"a{ending}", binary)
    np.testing.assert_array_equal(read_label_map(path).array[0, 0], binary.astype(np.uint8))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bit_grey_keeps_its_values(tmp_path, ending):
    deep = (GREY.astype(np.uint16) + 1) * 257
    deep[0, 0] = 40001
    np.testing.assert_array_equal(read_image([save(tmp_path / f"a{ending}", deep)]).array[0, 0], deep)


@pytest.mark.parametrize("components", [3, 4])
def test_sixteen_bit_colour_png_keeps_its_values_and_loses_its_transparency(tmp_path, components):
    deep = RNG.integers(0, 65535, (5, 7, components), dtype=np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=True), str(tmp_path / "a.png"))
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[:, 0], np.moveaxis(deep[..., :3], -1, 0))


def test_sixteen_bit_grey_with_transparency_is_refused_rather_than_halved(tmp_path):
    deep = RNG.integers(0, 65535, (5, 7, 2), dtype=np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=True), str(tmp_path / "a.png"))
    with pytest.raises(ImageError, match="16 bit grey with transparency"):
        read_image([tmp_path / "a.png"])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_colours_other_than_rgb_are_refused_where_they_are_stored_so(tmp_path, mode):
    ending = ".jpg" if mode == "CMYK" else ".tif"
    Pillow.fromarray(RGB).convert(mode).save(tmp_path / f"a{ending}")
    if mode == "CMYK":
        with pytest.raises(ImageError, match="colour mode CMYK"):
            read_image([tmp_path / "a.jpg"])
    else:  # a JPEG stores YCbCr too: what counts is that the reader gives RGB
        with pytest.raises(ImageError, match="colour mode YCBCR"):
            read_image([tmp_path / "a.tif"])


def test_pixels_come_as_they_are_stored_whatever_exif_says_about_the_way_up(tmp_path):
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    flat = np.full((16, 32, 3), 120, dtype=np.uint8)
    flat[:8] = 10
    Pillow.fromarray(flat).save(tmp_path / "a.jpg", exif=exif)
    image = read_image([tmp_path / "a.jpg"]).array
    assert image.shape == (3, 1, 16, 32)
    np.testing.assert_allclose(image[:, 0, 0], 10, atol=3)


def test_jpeg_reads_but_is_never_written_as_a_label_map(tmp_path):
    flat = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    image = read_image([save(tmp_path / "a.jpg", flat)])
    np.testing.assert_allclose(image.array[:, 0, 8, 8], (200, 100, 50), atol=3)
    with pytest.raises(ImageError, match="lossy"):
        write_label_map(tmp_path / "b.jpg", np.zeros((1, 16, 16), dtype=np.uint8), image.geometry)
    assert not (tmp_path / "b.jpg").exists()


@pytest.mark.parametrize("ending", LOSSLESS)
@pytest.mark.parametrize("highest", [3, 255, 300])
def test_label_pictures_round_trip(tmp_path, ending, highest):
    labels = np.array([[[0, 1], [2, highest]]])
    geometry = read_image([save(tmp_path / "image.png", RGB)]).geometry
    if ending == ".bmp" and highest > 255:
        with pytest.raises(ImageError, match="0 to 255"):
            write_label_map(tmp_path / f"a{ending}", labels, geometry)
        return
    write_label_map(tmp_path / f"a{ending}", labels, geometry)
    np.testing.assert_array_equal(np.asarray(Pillow.open(tmp_path / f"a{ending}")), labels[0])
    np.testing.assert_array_equal(read_label_map(tmp_path / f"a{ending}").array[0], labels)


def test_what_a_picture_cannot_hold_is_refused(tmp_path):
    picture = read_image([save(tmp_path / "image.png", GREY)]).geometry
    for labels, message in ((np.full((1, 2, 2), -1), "0 to 65535"), (np.full((1, 2, 2), 70000), "0 to 65535")):
        with pytest.raises(ImageError, match=message):
            write_label_map(tmp_path / "a.png", labels, picture)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 2, 2), dtype=np.uint8)), str(tmp_path / "v.nii.gz"))
    with pytest.raises(ImageError, match="one 2D slice"):
        write_label_map(
            tmp_path / "a.png", np.zeros((3, 2, 2), dtype=np.uint8), read_image([tmp_path / "v.nii.gz"]).geometry
        )
    assert not (tmp_path / "a.png").exists()


def test_a_coloured_label_map_is_refused_and_grey_stored_as_colour_is_not(tmp_path):
    with pytest.raises(ImageError, match="colours"):
        read_label_map(save(tmp_path / "a.png", RGB))
    labels = GREY % 3
    same = save(tmp_path / "b.png", np.repeat(labels[..., None], 3, axis=-1))
    np.testing.assert_array_equal(read_label_map(same).array[0, 0], labels)


@pytest.mark.parametrize("ending", [*LOSSLESS, ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.8])
def test_truncated_pictures_are_image_errors(tmp_path, ending, share):
    path = save(tmp_path / f"a{ending}", RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match=f"a{ending}"):
        read_image([path])


def test_missing_pictures_are_image_errors(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image([tmp_path / "a.png"])
    with pytest.raises(ImageError, match="no image file"):
        read_image([])
