"""Real datasets, sound and broken."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segplan.dataset import check_case, open_dataset
from segplan.errors import ImageError, VerificationError
from segplan.imaging import read_image, read_label_map, write_label_map

ODD_NAME = "Dataset005_größe = 1, (neu) 数据"


@pytest.fixture
def data():
    place = os.environ.get("SEGPLAN_TEST_DATA")
    if not place:
        pytest.skip("SEGPLAN_TEST_DATA is not set")
    return Path(place)


@pytest.fixture
def broken(data, tmp_path):
    """Three good cases of Hippocampus, and the files that hippocampus_bad says do not belong."""
    source, bad, folder = data / "Dataset004_Hippocampus", data / "hippocampus_bad", tmp_path / ODD_NAME
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in ("hippocampus_001", "hippocampus_003", "hippocampus_004"):
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesTr")
        shutil.copy(source / "labelsTr" / f"{case}.nii.gz", folder / "labelsTr")
    shutil.copy(bad / "images" / "hippocampus_118.nii.gz", folder / "imagesTr" / "hippocampus_118_0000.nii.gz")
    for name in ("hippocampus_010.nii.gz", "hippocampus_281.nii.gz"):
        shutil.copy(bad / "labels" / name, folder / "labelsTr")
    for path in folder.rglob("*.nii.gz"):
        path.chmod(0o644)
    description = json.loads((source / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**description, "numTraining": 4}))
    return folder


def checked(dataset, number=0):
    case = dataset.cases[number]
    return check_case(case, dataset.description, read_image(case.images), read_label_map(case.label))


def test_hippocampus_opens_at_once_and_its_cases_are_sound(data):
    folder = data / "Dataset004_Hippocampus"
    seconds = []
    for _ in range(3):
        start = time.process_time()
        dataset = open_dataset(folder)
        seconds.append(time.process_time() - start)
    assert len(dataset.cases) == 260
    assert min(seconds) < 0.05
    for number in range(0, 260, 13):
        assert checked(dataset, number) == []


def test_files_that_do_not_belong_are_all_named(broken):
    with pytest.raises(VerificationError) as caught:
        open_dataset(broken)
    assert [(problem.case, problem.what) for problem in caught.value.problems] == [
        ("hippocampus_118", "the image has no label map"),
        ("hippocampus_010", "the label map has no image"),
        ("hippocampus_281", "the label map has no image"),
    ]


def test_a_label_map_of_another_organ_differs_in_shape_and_spacing(broken):
    labels = broken / "labelsTr"
    (labels / "hippocampus_281.nii.gz").rename(labels / "hippocampus_118.nii.gz")
    (labels / "hippocampus_010.nii.gz").unlink()
    dataset = open_dataset(broken)
    (problem,) = checked(dataset, 3)
    assert problem.fatal
    assert "33×52×37" in problem.what
    assert "94×512×512" in problem.what


def test_a_truncated_image_and_a_label_value_of_another_dataset(broken):
    for path in (broken / "labelsTr").glob("hippocampus_[02]??.nii.gz"):
        if path.name[12:15] in ("010", "281"):
            path.unlink()
    (broken / "imagesTr" / "hippocampus_118_0000.nii.gz").unlink()
    description = json.loads((broken / "dataset.json").read_text())
    (broken / "dataset.json").write_text(json.dumps({**description, "numTraining": 3}))
    dataset = open_dataset(broken)
    label = read_label_map(dataset.cases[0].label)
    changed = label.array[0].copy()
    changed[changed == 2] = 7
    write_label_map(dataset.cases[0].label, changed, label.geometry)
    (problem,) = checked(dataset)
    assert f"7 ({int((label.array == 2).sum())} voxels)" in problem.what
    image = dataset.cases[1].images[0]
    image.write_bytes(image.read_bytes()[:-3000])
    with pytest.raises(ImageError, match="truncated"):
        checked(dataset, 1)


def test_an_anisotropic_ct_keeps_its_geometry(data, tmp_path):
    case = open_dataset(data / "Dataset901_SarcomaCT").cases[0]
    image, labels = read_image(case.images), read_label_map(case.label)
    assert image.spacing[0] > 3 * image.spacing[1]
    write_label_map(tmp_path / "a.nii.gz", labels.array[0], image.geometry)
    source, written = sitk.ReadImage(str(case.images[0])), sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    for part in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(written, part)() == getattr(source, part)()
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
    )


def test_retina_photographs_with_png_masks_are_a_dataset(data, tmp_path):
    folder = tmp_path / ODD_NAME
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in ("01L", "01R"):
        shutil.copy(data / "CHASE_DB1" / f"Image_{case}.jpg", folder / "imagesTr" / f"{case}_0000.jpg")
        shutil.copy(data / "CHASE_DB1" / f"Image_{case}_1stHO.png", folder / "labelsTr" / f"{case}.png")
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "vessel": 1},
        "numTraining": 2,
        "file_ending": ".jpg",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    dataset = open_dataset(folder)
    assert dataset.description.label_ending == ".png"
    assert checked(dataset) == []
    image, labels = read_image(dataset.cases[0].images), read_label_map(dataset.cases[0].label)
    assert image.array.shape == (3, 1, 960, 999)
    write_label_map(tmp_path / "out.png", labels.array[0], image.geometry)
    np.testing.assert_array_equal(read_label_map(tmp_path / "out.png").array, labels.array)


def test_the_packages_import_no_heavy_library():
    heavy = "('torch', 'SimpleITK', 'PIL', 'scipy', 'numba')"
    code = f"import sys, segplan.imaging, segplan.dataset; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
