"""PNG, BMP, TIFF and JPEG in all the kinds that datasets come in."""

import numpy as np
import pytest
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


def test_sixteen_bit_colour_is_refused_rather_than_halved(tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + bytes(2 * 3 * 2) for _ in range(2))
    header = struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match="16 bit"):
        read_image([tmp_path / "a.png"])


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
    import SimpleITK as sitk

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


def test_several_pages_are_refused(tmp_path):
    pages = [Pillow.fromarray(GREY) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="3 pages"):
        read_image([tmp_path / "a.tif"])


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
