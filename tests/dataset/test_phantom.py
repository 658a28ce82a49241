import json

import numpy as np
import pytest
import SimpleITK
from PIL import Image as Pillow

from segplan.dataset import open_dataset
from segplan.dataset.phantom import KINDS, LABELS, draw_case, make_phantom
from segplan.errors import ConfigError
from segplan.imaging import read_image, read_label_map
from segplan.jobs import phantom as job


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_depends_on_seed_and_index_alone(kind):
    first, again = draw_case(kind, 3, 5), draw_case(kind, 3, 5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    for other in (draw_case(kind, 3, 6), draw_case(kind, 4, 5)):
        assert other.image.shape != first.image.shape or not np.array_equal(other.image, first.image)


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_occurs_in_every_case_and_the_lesion_is_small(kind):
    for index in range(12):
        counts = np.bincount(draw_case(kind, 0, index).labels.ravel(), minlength=len(LABELS))
        assert np.all(counts > 20), (index, counts)
        assert counts[LABELS["lesion"]] < 0.2 * counts[1:].sum()
        assert counts[0] > 0.6 * counts.sum()


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_volumes_vary_in_size_and_spacing_and_some_have_thick_slices(kind):
    cases = [draw_case(kind, 0, index) for index in range(30)]
    assert len({case.labels.shape for case in cases}) > 20
    assert len({case.spacing for case in cases}) > 20
    thick = [case.spacing[0] / case.spacing[1] > 1.7 for case in cases]
    assert 1 <= sum(thick) <= 12
    assert max(max(case.labels.shape) for case in cases) <= 76


def test_ct_is_in_hounsfield_units_and_pictures_in_bytes():
    ct, rgb = draw_case("ct", 0, 0), draw_case("rgb", 0, 0)
    assert -1024 <= ct.image.min() < -950
    assert 0 < np.median(ct.image[0][ct.labels > 0]) < 250
    assert rgb.image.shape[:2] == (3, 1)
    assert rgb.image.min() >= 0
    assert rgb.image.max() <= 255
    assert all(128 <= extent <= 192 for extent in rgb.labels.shape[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_organ_intensities_overlap_with_background(kind):
    """The central half of each class's intensities lies where at least as much background lies."""
    cases = [draw_case(kind, 0, index) for index in range(10)]
    values = np.concatenate([case.image[0].ravel() for case in cases])
    labels = np.concatenate([case.labels.ravel() for case in cases])
    for name in ("liver", "spleen", "kidney", "stomach", "lesion"):
        low, high = np.percentile(values[labels == LABELS[name]], (25, 75))
        inside = (values >= low) & (values <= high)
        share = np.mean(labels[inside] == LABELS[name])
        assert share < 0.65, (name, share)


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_a_valid_raw_dataset_that_holds_what_was_drawn(tmp_path, kind):
    out = tmp_path / "Dataset900_Phäntom (1)"
    make_phantom(out, kind, cases=2, seed=7, test_cases=1)
    dataset = open_dataset(out)
    assert dataset.name == out.name
    assert [case.identifier for case in dataset.cases] == ["phantom_0000", "phantom_0001"]
    drawn = draw_case(kind, 7, 1)
    image, labels = read_image(dataset.cases[1].images), read_label_map(dataset.cases[1].label)
    assert np.array_equal(image.array, drawn.image)
    assert np.array_equal(labels.array[0], drawn.labels)
    assert image.geometry == labels.geometry
    if kind != "rgb":
        assert image.spacing == pytest.approx(drawn.spacing)
    ending = ".png" if kind == "rgb" else ".nii.gz"
    assert (out / "imagesTs" / f"phantom_0002_0000{ending}").is_file()
    assert np.array_equal(
        read_label_map(out / "labelsTs" / f"phantom_0002{ending}").array[0], draw_case(kind, 7, 2).labels
    )


def test_pictures_are_plain_rgb_and_volumes_plain_nifti(tmp_path):
    make_phantom(tmp_path / "P", "rgb", cases=1, seed=0)
    make_phantom(tmp_path / "C", "ct", cases=1, seed=0)
    assert Pillow.open(tmp_path / "P" / "imagesTr" / "phantom_0000_0000.png").mode == "RGB"
    image = SimpleITK.ReadImage(str(tmp_path / "C" / "imagesTr" / "phantom_0000_0000.nii.gz"))
    label = SimpleITK.ReadImage(str(tmp_path / "C" / "labelsTr" / "phantom_0000.nii.gz"))
    assert image.GetOrigin() == label.GetOrigin() != (0, 0, 0)
    assert image.GetSpacing() == label.GetSpacing()


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        make_phantom(tmp_path / name / "D", "mr", cases=2, seed=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_job_leaves_its_own_dataset_alone_and_refuses_other_folders(tmp_path, capsys):
    out = tmp_path / "D"
    assert job.run(out, "rgb", 2, 0) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert job.run(out, "rgb", 2, 0) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert "is there already" in capsys.readouterr().out
    for changed in (("rgb", 3, 0, 0), ("rgb", 2, 1, 0), ("ct", 2, 0, 0), ("rgb", 2, 0, 1)):
        with pytest.raises(ConfigError, match="not empty"):
            job.run(out, *changed)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        job.run(tmp_path / "other", "rgb", 2, 0)


@pytest.mark.parametrize(("kind", "cases", "seed", "tests"), [("xray", 2, 0, 0), ("ct", 0, 0, 0), ("ct", 1, -1, 0)])
def test_arguments_that_cannot_work_are_refused_and_leave_nothing(tmp_path, kind, cases, seed, tests):
    with pytest.raises(ConfigError):
        job.run(tmp_path / "D", kind, cases, seed, tests)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    from segplan.dataset.phantom import folder

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "_write_description", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "D", "rgb", 1, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_description_records_the_parameters(tmp_path):
    make_phantom(tmp_path / "D", "rgb", cases=1, seed=4)
    description = json.loads((tmp_path / "D" / "dataset.json").read_text())
    assert description["labels"] == LABELS
    assert description["numTraining"] == 1
    assert description["phantom"]["seed"] == 4
