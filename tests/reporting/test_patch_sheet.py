import numpy as np
from PIL import Image

from segplan.reporting.patch_sheet import PatchPair, write_patch_sheet
from segplan.reporting.style import class_colour


def pair(shape, lines=("noise: std 0.05",), value=1):
    labels = np.zeros(shape, np.int16)
    labels[:, 4:12, 4:12] = value
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return PatchPair("1 case", lines, (image, np.zeros(shape, np.int16)), (image, labels))


def colours_of(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}


def write(path, patches, **changes):
    settings = {"title": "sheet", "names": {1: "organ"}} | changes
    write_patch_sheet(path, patches, (1.0, 1.0, 1.0), **settings)
    return Image.open(path).size


def test_labels_are_outlined_in_their_colours_and_the_ignored_in_white(tmp_path):
    write(tmp_path / "a.png", [pair((8, 16, 16))])
    assert class_colour(1) in colours_of(tmp_path / "a.png")
    assert class_colour(2) not in colours_of(tmp_path / "a.png")
    write(tmp_path / "b.png", [pair((8, 16, 16), value=2)], ignore=2)
    assert class_colour(2) not in colours_of(tmp_path / "b.png")


def test_the_sheet_grows_with_patches_and_with_text(tmp_path):
    one = write(tmp_path / "1.png", [pair((1, 16, 16))])
    many = write(tmp_path / "2.png", [pair((1, 16, 16))] * 8)
    assert many[0] > one[0]
    assert many[1] > one[1]
    told = write(tmp_path / "3.png", [pair((1, 16, 16), ["words " * 60])])
    assert (told[0], told[1] > one[1] + 17 * 3) == (one[0], True)


def test_a_volume_is_shown_in_three_planes_with_its_true_proportions(tmp_path):
    flat = write(tmp_path / "flat.png", [pair((1, 16, 16))])
    volume = write(tmp_path / "volume.png", [pair((16, 16, 16))])
    assert volume[0] > flat[0]
    patch = pair((4, 16, 16))
    write_patch_sheet(tmp_path / "thick.png", [patch], (4.0, 1.0, 1.0), title="", names={})
    write_patch_sheet(tmp_path / "thin.png", [patch], (0.5, 1.0, 1.0), title="", names={})
    assert Image.open(tmp_path / "thick.png").size == Image.open(tmp_path / "thin.png").size
    assert (tmp_path / "thick.png").read_bytes() != (tmp_path / "thin.png").read_bytes()
