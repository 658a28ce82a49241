"""A task of the Medical Segmentation Decathlon becomes a dataset in nnU-Net's raw layout."""

import gzip
import json

import nibabel
import numpy as np
import pytest

from segplan.cli import main
from segplan.dataset import conversion, open_dataset
from segplan.imaging import read_image

AFFINE = np.diag([-1.5, 2, 3, 1.0])
AFFINE[1:3, 1:3] = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]) * (2, 3)
AFFINE[:3, 3] = (10, -20, 5)


def write_nifti(path, array, slope=None):
    image = nibabel.Nifti1Image(array, AFFINE)
    if slope is not None:
        image.header.set_slope_inter(slope, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


@pytest.fixture
def task(tmp_path):
    """A made-up task of two channels: four training cases, a test case, and macOS's shadow files."""
    folder = tmp_path / "Task42_Organ"
    rng = np.random.default_rng(0)
    training = []
    for number in range(4):
        name = f"organ_{number:03d}.nii.gz"
        write_nifti(folder / "imagesTr" / name, rng.integers(-900, 900, (5, 6, 7, 2)).astype(np.int16))
        write_nifti(folder / "labelsTr" / name, rng.integers(0, 3, (5, 6, 7)).astype(np.uint8))
        (folder / "imagesTr" / f"._{name}").write_bytes(b"shadow")
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    training.append({"image": "./imagesTr/._organ_000.nii.gz", "label": "./labelsTr/._organ_000.nii.gz"})
    write_nifti(folder / "imagesTs" / "organ_900.nii.gz", rng.normal(size=(5, 6, 7, 2)).astype(np.float32))
    description = {
        "name": "Organ",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "T2", "1": "CT"},
        "labels": {"2": "tumour", "0": "background", "1": "organ"},
        "numTraining": 5,
        "training": training,
        "test": ["./imagesTs/organ_900.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_the_result_is_a_sound_dataset(task, tmp_path):
    assert main(["convert-msd", str(task), str(tmp_path / "raw"), "num_workers=1"]) == 0
    dataset = open_dataset(tmp_path / "raw" / "Dataset042_Organ")
    assert [case.identifier for case in dataset.cases] == [f"organ_{number:03d}" for number in range(4)]
    assert dataset.description.channel_names == ("T2", "CT")
    assert dict(dataset.description.labels.names) == {"background": 0, "organ": 1, "tumour": 2}
    assert dataset.description.raw["licence"] == "CC-BY-SA 4.0"
    assert sorted(path.name for path in (dataset.folder / "imagesTs").iterdir()) == [
        "organ_900_0000.nii.gz",
        "organ_900_0001.nii.gz",
    ]


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.uint8])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_each_channel_has_the_voxels_the_scaling_and_the_geometry_of_its_volume(tmp_path, kind, ending):
    from segplan.dataset.volumes import split_volumes, volume_count

    array = np.random.default_rng(1).integers(0, 200, (5, 6, 7, 3)).astype(kind)
    source = tmp_path / f"case{ending}"
    write_nifti(source, array, slope=2.0)
    assert volume_count(source) == 3
    targets = [tmp_path / f"out_{number:04d}.nii.gz" for number in range(3)]
    split_volumes(source, targets)
    whole = nibabel.load(source)
    for number, target in enumerate(targets):
        part = nibabel.load(target)
        assert volume_count(target) is None
        assert part.shape == (5, 6, 7)
        assert part.get_data_dtype() == whole.get_data_dtype()
        assert np.array_equal(np.asarray(part.dataobj), np.asarray(whole.dataobj)[..., number])
        assert np.array_equal(part.affine, whole.affine)
        for field in ("quatern_b", "qoffset_x", "srow_x", "xyzt_units"):
            assert np.array_equal(part.header[field], whole.header[field])
        assert (part.dataobj.slope, part.dataobj.inter) == (whole.dataobj.slope, whole.dataobj.inter) == (2, 3)
        assert read_image([target]).array.shape == (1, 7, 6, 5)


def test_nifti_2_is_taken_apart_too(tmp_path):
    from segplan.dataset.volumes import split_volumes

    array = np.random.default_rng(1).normal(size=(4, 3, 2, 2))
    nibabel.save(nibabel.Nifti2Image(array, AFFINE), tmp_path / "case.nii")
    split_volumes(tmp_path / "case.nii", [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"])
    assert np.array_equal(nibabel.load(tmp_path / "b.nii.gz").get_fdata(), array[..., 1])
    assert np.array_equal(nibabel.load(tmp_path / "b.nii.gz").affine, AFFINE)


def test_a_truncated_file_is_named_and_leaves_nothing_half_written(task, tmp_path, capsys):
    path = task / "imagesTr" / "organ_002.nii.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: len(content) - 100]))
    out = tmp_path / "raw" / "Dataset042_Organ"
    assert main(["convert-msd", str(task), str(out), "num_workers=1"]) == 2
    printed = capsys.readouterr()
    assert "organ_002" in printed.out + printed.err
    assert not (out / "dataset.json").exists()
    assert sorted(path.name for path in (out / "imagesTr").glob("organ_002*")) == ["organ_002_0000.nii.gz"]
    path.write_bytes(gzip.compress(content))
    assert main(["convert-msd", str(task), str(out), "num_workers=1"]) == 0
    assert len(open_dataset(out).cases) == 4


def test_a_stopped_conversion_goes_on_where_it_was(task, tmp_path, monkeypatch, capsys):
    done, real = [], conversion.split_volumes

    def stops_at_the_third(path, targets):
        done.append(path.name)
        if len(done) == 3:
            raise KeyboardInterrupt
        real(path, targets)

    monkeypatch.setattr(conversion, "split_volumes", stops_at_the_third)
    command = ["convert-msd", str(task), str(tmp_path), "num_workers=1"]
    assert main(command) == 130
    assert not (tmp_path / "Dataset042_Organ" / "dataset.json").exists()
    assert main(command) == 0
    assert sorted(done) == sorted([*(f"organ_{number:03d}.nii.gz" for number in (0, 1, 2, 2, 3)), "organ_900.nii.gz"])
    capsys.readouterr()
    assert main(command) == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert len(done) == 6
    changed = task / "labelsTr" / "organ_001.nii.gz"
    changed.unlink()
    write_nifti(changed, np.ones((5, 6, 7), np.uint8))
    assert main(command) == 0
    assert done[6:] == ["organ_001.nii.gz"]
    label = nibabel.load(tmp_path / "Dataset042_Organ" / "labelsTr" / "organ_001.nii.gz")
    assert (np.asarray(label.dataobj) == 1).all()


def test_a_test_case_may_be_called_like_a_training_case(task, tmp_path):
    (task / "imagesTs" / "organ_900.nii.gz").rename(task / "imagesTs" / "organ_000.nii.gz")
    text = (task / "dataset.json").read_text().replace("imagesTs/organ_900", "imagesTs/organ_000")
    (task / "dataset.json").write_text(text)
    words = ["convert-msd", str(task), str(tmp_path / "raw"), "num_workers=1"]
    assert main(words) == 0
    out = tmp_path / "raw" / "Dataset042_Organ"
    files = sorted(path for path in out.rglob("*.gz"))
    assert {path.parent.name for path in files if path.name.startswith("organ_000")} == {
        "imagesTr",
        "imagesTs",
        "labelsTr",
    }
    lost = out / "labelsTr" / "organ_000.nii.gz"
    lost.unlink()
    assert main(words) == 0
    assert sorted(path for path in out.rglob("*.gz")) == files


def test_a_folder_with_something_else_is_left_alone(task, tmp_path, capsys):
    out = tmp_path / "Dataset001_Mine"
    out.mkdir()
    (out / "dataset.json").write_text("{}")
    assert main(["convert-msd", str(task), str(out)]) == 2
    assert "did not make" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["dataset.json"]


def test_missing_files_and_wrong_channels_come_in_one_table(task, tmp_path, capsys):
    (task / "labelsTr" / "organ_001.nii.gz").unlink()
    write_nifti(task / "imagesTr" / "organ_003.nii.gz", np.zeros((5, 6, 7, 3), np.int16))
    assert main(["convert-msd", str(task), str(tmp_path / "raw")]) == 2
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "organ_001" in text
    assert "has 3 channels" in text
    assert not (tmp_path / "raw").exists()


def test_label_names_may_be_the_keys_and_single_channel_files_are_linked(tmp_path):
    folder = tmp_path / "Task07_Thing"
    for number in range(2):
        write_nifti(folder / "imagesTr" / f"t{number}.nii.gz", np.full((3, 4, 5), 7, np.int16))
        write_nifti(folder / "labelsTr" / f"t{number}.nii.gz", np.zeros((3, 4, 5), np.uint8))
    listed = [{"image": f"imagesTr/t{n}.nii.gz", "label": f"labelsTr/t{n}.nii.gz"} for n in range(2)]
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "b": 2, "a": 1}, "training": listed}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert main(["convert-msd", str(folder), str(tmp_path), "num_workers=1"]) == 0
    made = json.loads((tmp_path / "Dataset007_Thing" / "dataset.json").read_text())
    assert made["labels"] == {"background": 0, "a": 1, "b": 2}
    linked = tmp_path / "Dataset007_Thing" / "imagesTr" / "t0_0000.nii.gz"
    assert linked.read_bytes() == (folder / "imagesTr" / "t0.nii.gz").read_bytes()


@pytest.mark.parametrize("broken", [{"modality": {}}, {"labels": {"1": 2}}, {"training": [3]}, {"training": []}])
def test_what_is_no_task_is_explained(task, tmp_path, broken, capsys):
    content = json.loads((task / "dataset.json").read_text()) | {"test": []} | broken
    (task / "dataset.json").write_text(json.dumps(content))
    assert main(["convert-msd", str(task), str(tmp_path / "raw")]) == 2
    assert next(iter(broken)) in capsys.readouterr().err
