"""Plain folders of images and label maps become a dataset in nnU-Net's raw layout."""

import json
import os

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from segplan.cli import main
from segplan.dataset import open_dataset
from segplan.imaging import read_image, read_label_map


def write_picture(path, value, mode="L", size=(9, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    if mode == "mask":
        array = np.zeros(size, np.uint8)
        array[2:5, 3:6] = value
        Image.fromarray(array).save(path)
    else:
        shape = (*size, 3) if mode == "RGB" else size
        Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(path)


def convert(tmp_path, *words, images="images", labels="labels"):
    return main(
        [
            "convert-folder",
            str(tmp_path / images),
            str(tmp_path / labels),
            str(tmp_path / "out"),
            "num_workers=1",
            *words,
        ]
    )


def described(tmp_path):
    return json.loads((tmp_path / "out" / "dataset.json").read_text())


def names(tmp_path, folder):
    return sorted(path.name for path in (tmp_path / "out" / folder).iterdir())


def test_equal_names_need_no_pattern_and_values_found_become_labels(tmp_path, capsys):
    for case in ("a", "b c", "d_1"):
        write_picture(tmp_path / "images" / f"{case}.png", 0, "RGB")
        write_picture(tmp_path / "labels" / f"{case}.png", 255, "mask")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    assert convert(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "pattern='{case}.png' label_pattern='{case}.png'" in printed
    assert described(tmp_path)["labels"] == {"background": 0, "foreground": 255}
    assert described(tmp_path)["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert names(tmp_path, "imagesTr") == ["a_0000.png", "b c_0000.png", "d_1_0000.png"]
    assert names(tmp_path, "labelsTr") == ["a.png", "b c.png", "d_1.png"]
    dataset = open_dataset(tmp_path / "out")
    assert read_image(dataset.cases[0].images).array.shape[0] == 3
    assert set(np.unique(read_label_map(dataset.cases[0].label).array)) == {0, 255}


@pytest.mark.parametrize(
    ("image", "label", "guess"),
    [
        ("{}.png", "{}_mask.png", "pattern='{case}.png' label_pattern='{case}_mask.png'"),
        ("{}_0000.png", "{}.png", "pattern='{case}_0000.png' label_pattern='{case}.png'"),
        ("img_{}.png", "seg_{}.png", "pattern='img_{case}.png' label_pattern='seg_{case}.png'"),
        ("img{}.png", "seg{}.png", "pattern='img{case}.png' label_pattern='seg{case}.png'"),
        ("{}_image.bmp", "{}_label.png", "pattern='{case}_image.bmp' label_pattern='{case}_label.png'"),
    ],
)
def test_other_names_are_guessed_and_the_guess_is_printed(tmp_path, capsys, image, label, guess):
    for number in (1, 2, 10, 21):
        write_picture(tmp_path / "images" / image.format(number), 0)
        write_picture(tmp_path / "labels" / label.format(number), 1, "mask")
    assert convert(tmp_path) == 0
    assert guess in capsys.readouterr().out
    assert names(tmp_path, "labelsTr") == ["1.png", "10.png", "2.png", "21.png"]


@pytest.mark.parametrize("name", ["img{}.png", "case_{:03d}_axial.png"])
def test_equal_names_that_share_their_beginning_are_paired_whole(tmp_path, name):
    for number in (1, 2, 10):
        write_picture(tmp_path / "images" / name.format(number), 0)
        write_picture(tmp_path / "labels" / name.format(number), 1, "mask")
    assert convert(tmp_path) == 0
    assert names(tmp_path, "labelsTr") == sorted(name.format(number) for number in (1, 2, 10))


def test_two_label_maps_an_image_are_asked_about(tmp_path, capsys):
    for number in range(3):
        write_picture(tmp_path / "both" / f"p{number}.jpg", 0, "RGB")
        for observer in ("first", "second"):
            write_picture(tmp_path / "both" / f"p{number}_{observer}.png", 1, "mask")
    assert convert(tmp_path, images="both", labels="both") == 2
    message = capsys.readouterr().err
    assert "label_pattern='{case}_first.png'" in message
    assert "label_pattern='{case}_second.png'" in message
    words = ("pattern={case}.jpg", "label_pattern={case}_second.png", "labels={vessel: 1}")
    assert convert(tmp_path, *words, images="both", labels="both") == 0
    assert described(tmp_path)["labels"] == {"background": 0, "vessel": 1}
    assert described(tmp_path)["file_ending"] == ".jpg"
    assert described(tmp_path)["label_ending"] == ".png"
    assert len(open_dataset(tmp_path / "out").cases) == 3


def test_channels_in_files_of_their_own_and_folders_a_case(tmp_path):
    for case in ("p1", "p2"):
        for channel in ("flair", "t1", "seg"):
            array = np.full((3, 4, 5), {"flair": 7, "t1": 9, "seg": 4}[channel], np.int16)
            path = tmp_path / "images" / case / f"{case}_{channel}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    words = (
        "pattern={case}/{case}_{channel}.nii.gz",
        "label_pattern={case}/{case}_seg.nii.gz",
        "channels={t1: T1, flair: FLAIR}",
        "labels=[tumour]",
    )
    assert convert(tmp_path, *words, labels="images") == 0
    assert described(tmp_path)["channel_names"] == {"0": "T1", "1": "FLAIR"}
    assert described(tmp_path)["labels"] == {"background": 0, "tumour": 4}
    image = read_image(open_dataset(tmp_path / "out").cases[0].images)
    assert image.array[:, 0, 0, 0].tolist() == [9, 7]


def test_files_without_a_partner_on_either_side_come_in_one_table(tmp_path, capsys):
    for case in ("a", "b", "c"):
        write_picture(tmp_path / "images" / f"{case}.png", 0)
    for case in ("b", "c", "z"):
        write_picture(tmp_path / "labels" / f"{case}.png", 1, "mask")
    assert convert(tmp_path) == 2
    printed = capsys.readouterr()
    assert "a.png has no label map" in printed.out + printed.err
    assert "z.png has no image" in printed.out + printed.err
    assert not (tmp_path / "out").exists()
    assert convert(tmp_path, "--skip-unmatched") == 0
    assert names(tmp_path, "imagesTr") == ["b_0000.png", "c_0000.png"]
    assert described(tmp_path)["numTraining"] == 2


def test_test_cases_go_to_folders_of_their_own_and_need_no_label_map(tmp_path):
    for case in ("a1", "a2", "b1", "b2"):
        write_picture(tmp_path / "images" / f"{case}.png", 0)
        if case != "b2":
            write_picture(tmp_path / "labels" / f"{case}.png", 1, "mask")
    assert convert(tmp_path, "test=b*") == 0
    assert names(tmp_path, "imagesTs") == ["b1_0000.png", "b2_0000.png"]
    assert names(tmp_path, "labelsTs") == ["b1.png"]
    assert names(tmp_path, "imagesTr") == ["a1_0000.png", "a2_0000.png"]
    assert described(tmp_path)["numTraining"] == 2


def test_a_background_that_is_not_0_gets_new_values(tmp_path):
    for case in ("a", "b"):
        write_picture(tmp_path / "images" / f"{case}.png", 0)
        write_picture(tmp_path / "labels" / f"{case}.png", 255, "mask")
    assert convert(tmp_path, "labels={vessel: 0, background: 255}") == 0
    assert described(tmp_path)["labels"] == {"background": 0, "vessel": 1}
    before = read_label_map(tmp_path / "labels" / "a.png").array
    after = read_label_map(tmp_path / "out" / "labelsTr" / "a.png").array
    assert np.array_equal(after == 1, before == 0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pattern={name}.png", "no placeholder {name}"),
        ("pattern=image.png", "no {case}"),
        ("pattern={case}.bmp", "none of its 2 images"),
        ("labels={vessel: 7}", "labels='{vessel: 255}'"),
        ("labels=[a, b]", "2 names for 1 values"),
        ("labels=vessel", "neither a list nor a mapping"),
        ("channels={t1: T1}", "no {channel}"),
        ("test=zzz", "no case is named zzz"),
    ],
)
def test_options_that_cannot_work_are_explained(tmp_path, capsys, word, message):
    for case in ("a", "b"):
        write_picture(tmp_path / "images" / f"{case}.png", 0)
        write_picture(tmp_path / "labels" / f"{case}.png", 255, "mask")
    assert convert(tmp_path, word) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pictures_taken_for_label_maps_are_refused(tmp_path, capsys):
    for case in ("a", "b"):
        write_picture(tmp_path / "images" / f"{case}.png", 0)
        write_picture(tmp_path / "labels" / f"{case}.png", 0, "RGB")
    assert convert(tmp_path) == 2
    printed = capsys.readouterr()
    assert "must be grey" in printed.out + printed.err


def test_a_folder_converted_with_other_options_is_left_alone(tmp_path, capsys):
    for case in ("a", "b"):
        write_picture(tmp_path / "images" / f"{case}.png", 0)
        write_picture(tmp_path / "labels" / f"{case}.png", 255, "mask")
    assert convert(tmp_path) == 0
    capsys.readouterr()
    assert convert(tmp_path) == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert convert(tmp_path, "labels=[other]") == 2
    assert "another options" in capsys.readouterr().err
    assert described(tmp_path)["labels"]["foreground"] == 255


def test_dicom_series_stay_folders_of_their_files(real_data, tmp_path):
    source = real_data / "dicom_ct_3slices"
    for case in ("p1", "p2"):
        (tmp_path / "images" / case).mkdir(parents=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        for path in (source / "ct-3slice").iterdir():
            (tmp_path / "images" / case / path.name).write_bytes(path.read_bytes())
        (tmp_path / "labels" / f"{case}_seg.nrrd").write_bytes((source / "liver_spine_seg.nrrd").read_bytes())
    words = ("pattern={case}", "label_pattern={case}_seg.nrrd", "channels=[CT]", "labels={liver: 1, spine: 2}")
    assert convert(tmp_path, *words) == 0
    assert described(tmp_path)["file_ending"] == ".dcm"
    dataset = open_dataset(tmp_path / "out")
    assert [case.identifier for case in dataset.cases] == ["p1", "p2"]
    image, label = read_image(dataset.cases[0].images), read_label_map(dataset.cases[0].label)
    assert image.array.shape == label.array.shape == (1, 3, 512, 512)
    assert image.spacing == pytest.approx(label.spacing)
    assert convert(tmp_path, *words) == 0


def test_retina_photographs_convert_with_one_command(real_data, tmp_path):
    folder = str(real_data / "CHASE_DB1")
    words = ("pattern={case}.jpg", "label_pattern={case}_1stHO.png", "labels={vessel: 1}", "num_workers=1")
    assert main(["convert-folder", folder, folder, str(tmp_path / "Dataset010_Retina"), *words]) == 0
    dataset = open_dataset(tmp_path / "Dataset010_Retina")
    assert len(dataset.cases) == 28
    assert read_image(dataset.cases[0].images).array.shape == (3, 1, 960, 999)
    assert read_label_map(dataset.cases[0].label).array.max() == 1


def write_volume(path, labels, ending, compressed=False):
    """A volume whose spacing (z 2, y 0.6, x 0.5) or whose voxels lie in a second file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((8, 12, 10), np.uint8 if labels else np.int16)
    array[2:5, 3:7, 3:8] = 1 if labels else 300
    if ending == ".tif":
        tifffile.imwrite(f"{path}.tif", array, photometric="minisblack")
        path.with_name(f"{path.name}.json").write_text('{"spacing": [2, 0.6, 0.5]}')
    else:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((0.5, 0.6, 2.0))
        sitk.WriteImage(image, f"{path}.mhd", compressed)
    return array


@pytest.mark.parametrize("words", [(), ("labels={background: 1, hole: 0}",)], ids=["as they are", "renumbered"])
@pytest.mark.parametrize(("ending", "compressed"), [(".tif", False), (".mhd", False), (".mhd", True)])
def test_what_lies_in_a_second_file_comes_along(tmp_path, ending, compressed, words):
    for case in ("a", "b"):
        image = write_volume(tmp_path / "images" / case, False, ending, compressed)
        labels = write_volume(tmp_path / "labels" / case, True, ending, compressed)
    assert convert(tmp_path, *words) == 0
    for case in open_dataset(tmp_path / "out").cases:
        read, label_map = read_image(case.images), read_label_map(case.label)
        assert read.spacing == label_map.spacing == (2, 0.6, 0.5)
        assert np.array_equal(read.array[0], image)
        assert np.array_equal(label_map.array[0], 1 - labels if words else labels)
    before = [path.stat().st_ino for path in sorted((tmp_path / "out").rglob("*.*"))]
    assert convert(tmp_path, *words) == 0
    assert [path.stat().st_ino for path in sorted((tmp_path / "out").rglob("*.*"))] == before
    second = tmp_path / "images" / ("a.json" if ending == ".tif" else "a.zraw" if compressed else "a.raw")
    os.utime(second, (1, 1))
    assert convert(tmp_path, *words) == 0
    assert [path.stat().st_ino for path in sorted((tmp_path / "out").rglob("*.*"))] != before


@pytest.mark.parametrize("change", ["HeaderSize = 4\n", "LIST", "missing"])
def test_a_header_whose_voxels_cannot_be_joined_to_it_is_refused(tmp_path, capsys, change):
    write_volume(tmp_path / "images" / "a", False, ".mhd")
    write_volume(tmp_path / "labels" / "a", True, ".mhd")
    header = tmp_path / "images" / "a.mhd"
    text = header.read_text()
    if change == "missing":
        (tmp_path / "images" / "a.raw").unlink()
    elif change == "LIST":
        header.write_text(text.replace("a.raw", "LIST\na.raw"))
    else:
        header.write_text(text.replace("ElementDataFile", f"{change}ElementDataFile"))
    assert convert(tmp_path, "channels=[MR]") == 2
    printed = capsys.readouterr()
    assert "a.mhd" in printed.out + printed.err or "a.raw does not exist" in printed.out + printed.err
    assert not (tmp_path / "out" / "dataset.json").exists()
