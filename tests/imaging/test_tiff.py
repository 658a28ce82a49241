"""TIFF pictures and volumes: what other programs write, and where the spacing comes from."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image as Pillow

from segplan.errors import ImageError
from segplan.imaging import Geometry, natural, read_image, read_label_map, write_label_map
from segplan.imaging import tiff as tiff_module

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 60000, (4, 5, 6), dtype=np.uint16)
GREY = RNG.integers(0, 255, (5, 7), dtype=np.uint8)


def save(path, array, **options):
    tifffile.imwrite(path, array, **({"photometric": "minisblack"} | options))
    return path


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".TIF"])
def test_pages_are_slices(tmp_path, ending):
    image = read_image([save(tmp_path / f"a{ending}", VOLUME, metadata=None)])
    np.testing.assert_array_equal(image.array[0], VOLUME)
    assert image.spacing == (1.0, 1.0, 1.0)
    assert image.geometry.dimension == 3


def test_pages_that_pillow_saved_are_slices(tmp_path):
    pages = [Pillow.fromarray(GREY + number) for number in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image([tmp_path / "a.tif"]).array[0], [GREY, GREY + 1, GREY + 2])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}])
def test_every_number_type_order_and_size_of_file_reads(tmp_path, dtype, options):
    array = (RNG.random((3, 4, 5)) * 100).astype(dtype)
    image = read_image([save(tmp_path / "a.tif", array, **options)])
    np.testing.assert_array_equal(image.array[0], array.astype(np.float32))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "group4"])
def test_compressed_pictures_and_volumes_read(tmp_path, compression):
    pages = [(GREY + number).astype(np.uint8) for number in range(3)]
    if compression == "group4":
        pages = [page > 100 for page in pages]
    pictures = [Pillow.fromarray(page) for page in pages]
    pictures[0].save(tmp_path / "one.tif", compression=compression)
    pictures[0].save(tmp_path / "all.tif", compression=compression, save_all=True, append_images=pictures[1:])
    np.testing.assert_array_equal(read_image([tmp_path / "one.tif"]).array[0, 0], pages[0])
    np.testing.assert_array_equal(read_image([tmp_path / "all.tif"]).array[0], pages)


def test_a_compression_that_nothing_here_decodes_names_the_package(tmp_path, monkeypatch):
    Pillow.fromarray(GREY).save(tmp_path / "a.tif", compression="tiff_lzw")
    monkeypatch.setattr(tiff_module, "_decoded_by_pillow", lambda *_: None)

    def refuse(*_, **__):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
    with pytest.raises(ImageError, match=r"LZW needs the package imagecodecs.*pip install"):
        read_image([tmp_path / "a.tif"])


@pytest.mark.parametrize("name", ["case_0000.json", "case.json"])
def test_the_spacing_stands_in_a_json_file_beside_the_volume(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"spacing": [3.3, 1 / 3, 0.7]}))
    path = save(tmp_path / "case_0000.tif", VOLUME, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 9})
    image = read_image([path])
    assert image.spacing == (3.3, 1 / 3, 0.7)
    assert image.geometry == Geometry(3, (0.7, 1 / 3, 3.3), (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.mark.parametrize("text", ["{", "{}", '{"spacing": [1, 2]}', '{"spacing": "a"}', '{"spacing": [1, 2, null]}'])
def test_a_json_file_without_a_spacing_is_named(tmp_path, text):
    (tmp_path / "case.json").write_text(text)
    with pytest.raises(ImageError, match=r"case\.json.*spacing"):
        read_image([save(tmp_path / "case_0000.tif", VOLUME)])


@pytest.mark.parametrize("spacing", [[0, 1, 1], [1, 1, float("nan")]])
def test_a_spacing_of_zero_or_nan_is_refused(tmp_path, spacing):
    (tmp_path / "case.json").write_text(json.dumps({"spacing": spacing}))
    with pytest.raises(ImageError, match="spacing is"):
        read_image([save(tmp_path / "case_0000.tif", VOLUME)])


@pytest.mark.parametrize(("unit", "in_mm"), [("mm", 1.0), ("µm", 1e-3), ("cm", 10.0), ("pixel", 1.0)])
def test_ome_and_imagej_spacings_are_in_mm(tmp_path, unit, in_mm):
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    ome = save(tmp_path / "a.tif", VOLUME, ome=True, metadata={"axes": "ZYX", **sizes, **units})
    assert read_image([ome]).spacing == (2.0 * in_mm, 0.25 * in_mm, 0.5 * in_mm)
    shown = unit.replace("µ", "\\u00B5")
    imagej = save(
        tmp_path / "b.tif",
        VOLUME,
        imagej=True,
        resolution=(2, 4),
        metadata={"axes": "ZYX", "spacing": 2.0, "unit": shown},
    )
    assert read_image([imagej]).spacing == (2.0 * in_mm, 0.25 * in_mm, 0.5 * in_mm)


def test_ome_without_units_is_in_micrometres(tmp_path):
    sizes = {"PhysicalSizeX": 2, "PhysicalSizeY": 2, "PhysicalSizeZ": 4}
    assert read_image([save(tmp_path / "a.tif", VOLUME, ome=True, metadata={"axes": "ZYX", **sizes})]).spacing == (
        pytest.approx((4e-3, 2e-3, 2e-3))
    )


@pytest.mark.parametrize("kind", [{"ome": True}, {"imagej": True}])
def test_a_channel_axis_gives_channels(tmp_path, kind):
    array = RNG.integers(0, 999, (4, 3, 5, 6), dtype=np.uint16)
    image = read_image([save(tmp_path / "a.tif", array, metadata={"axes": "ZCYX"}, **kind)])
    np.testing.assert_array_equal(image.array, np.moveaxis(array, 1, 0))
    flat = read_image([save(tmp_path / "b.tif", array[0], metadata={"axes": "CYX"}, **kind)])
    np.testing.assert_array_equal(flat.array[:, 0], array[0])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_keep_their_values_at_8_and_16_bit(tmp_path, planar, dtype):
    colours = RNG.integers(0, np.iinfo(dtype).max, (5, 7, 3), dtype=dtype)
    stored = colours if planar == "contig" else np.moveaxis(colours, -1, 0)
    path = save(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    image = read_image([path])
    np.testing.assert_array_equal(image.array[:, 0], np.moveaxis(colours, -1, 0))
    assert image.spacing == (999.0, 1.0, 1.0)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("count", [2, 5])
def test_samples_that_are_no_transparency_are_channels(tmp_path, planar, count):
    channels = RNG.integers(0, 255, (count, 6, 7), dtype=np.uint8)
    stored = channels if planar == "separate" else np.moveaxis(channels, 0, -1).copy()
    path = save(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar)
    np.testing.assert_array_equal(read_image([path]).array[:, 0], channels)


def test_transparency_is_dropped(tmp_path):
    pixels = RNG.integers(0, 255, (6, 7, 4), dtype=np.uint8)
    colour = save(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image([colour]).array[:, 0], np.moveaxis(pixels[..., :3], -1, 0))
    grey = save(tmp_path / "b.tif", pixels[..., :2].copy(), photometric="minisblack", extrasamples=["assocalpha"])
    np.testing.assert_array_equal(read_image([grey]).array[0, 0], pixels[..., 0])


def test_a_volume_of_colours_has_channels(tmp_path):
    colours = RNG.integers(0, 255, (4, 5, 7, 3), dtype=np.uint8)
    path = save(tmp_path / "a.tif", colours, photometric="rgb", metadata={"axes": "ZYXS"})
    np.testing.assert_array_equal(read_image([path]).array, np.moveaxis(colours, -1, 0))


def test_a_volume_with_an_edge_of_three_voxels_is_no_colour_picture(tmp_path):
    volume = RNG.integers(0, 255, (5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image([save(tmp_path / "a.tif", volume)]).array[0], volume)


@pytest.mark.parametrize("shape", [(3, 5, 6), (4, 5, 6), (5, 6, 3)])
def test_colours_with_a_spacing_beside_them_are_slices(tmp_path, shape):
    """So tifffile writes a volume with such an edge, if it is not told what the axes are."""
    volume = RNG.integers(0, 255, shape, dtype=np.uint8)
    (tmp_path / "case.json").write_text(json.dumps({"spacing": [3, 2, 1]}))
    planar = "contig" if shape[-1] == 3 else "separate"
    image = read_image([save(tmp_path / "case_0000.tif", volume, photometric="rgb", planarconfig=planar)])
    np.testing.assert_array_equal(image.array[0], volume)


def test_a_palette_is_colour_in_images_and_numbers_in_label_maps(tmp_path):
    labels = GREY % 4
    picture = Pillow.fromarray(labels)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 255])
    picture.save(tmp_path / "a.tif")
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 255]])[labels]
    np.testing.assert_array_equal(read_image([tmp_path / "a.tif"]).array[:, 0], np.moveaxis(colours, -1, 0))
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif").array[0, 0], labels)


def test_labels_of_which_white_is_zero_are_refused(tmp_path):
    with pytest.raises(ImageError, match="white as 0"):
        read_label_map(save(tmp_path / "a.tif", GREY % 2, photometric="miniswhite"))


@pytest.mark.parametrize("compression", [None, "jpeg"])
def test_ycbcr_is_read_where_a_jpeg_decoder_makes_it_rgb_and_refused_elsewhere(tmp_path, compression):
    flat = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    Pillow.fromarray(flat).convert("YCbCr").save(tmp_path / "a.tif", compression=compression)
    if compression is None:
        with pytest.raises(ImageError, match="colour mode YCBCR"):
            read_image([tmp_path / "a.tif"])
    else:
        np.testing.assert_allclose(read_image([tmp_path / "a.tif"]).array[:, 0, 8, 8], (200, 100, 50), atol=3)


def test_time_points_and_pages_of_different_sizes_are_refused(tmp_path):
    path = save(tmp_path / "a.tif", VOLUME, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(ImageError, match="TYX"):
        read_image([path])
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(GREY)
        file.write(GREY[:3])
    with pytest.raises(ImageError, match="2 images of different sizes"):
        read_image([tmp_path / "b.tif"])


@pytest.mark.parametrize("slices", [1, 4])
def test_a_written_volume_has_the_spacing_of_the_image_bit_by_bit_and_others_read_it(tmp_path, slices):
    (tmp_path / "case.json").write_text(json.dumps({"spacing": [3.3, 1 / 3, 0.1]}))
    image = read_image([save(tmp_path / "case_0000.tif", VOLUME[:slices])])
    labels = VOLUME[:slices] % 3
    write_label_map(tmp_path / "labels.tif", labels, image.geometry)
    written = read_label_map(tmp_path / "labels.tif")
    assert written.geometry == image.geometry
    assert written.array.dtype == np.uint8
    np.testing.assert_array_equal(written.array[0], labels)
    others = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.tif")))
    np.testing.assert_array_equal(others.reshape(labels.shape), labels)


def test_what_a_tiff_cannot_hold_is_refused(tmp_path):
    turned = Geometry(3, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    moved = Geometry(3, (1.0, 1.0, 1.0), (0.0, 5.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    for geometry in (turned, moved):
        with pytest.raises(ImageError, match="position and orientation"):
            write_label_map(tmp_path / "a.tif", np.zeros((2, 2, 2), dtype=np.uint8), geometry)
    with pytest.raises(ImageError, match="below 4294967295"):
        write_label_map(tmp_path / "a.tif", np.full((1, 2, 2), 2**40), natural.GEOMETRY)
    assert not (tmp_path / "a.tif").exists()


def test_a_truncated_volume_is_refused(tmp_path):
    content = save(tmp_path / "a.tif", VOLUME, compression="zlib").read_bytes()
    for share in (0.3, 0.6, 0.97):
        (tmp_path / "b.tif").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ImageError, match=r"b\.tif"):
            read_image([tmp_path / "b.tif"])
