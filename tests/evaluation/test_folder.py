import json

import numpy as np
import pytest
import SimpleITK
from sklearn.metrics import f1_score

from segplan.dataset import Labels
from segplan.errors import ConfigError, VerificationError
from segplan.evaluation import evaluate_folder, folder
from segplan.jobs import evaluate

LABELS = {"background": 0, "a": 1, "b": 2}


def write(path, array, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    SimpleITK.WriteImage(image, str(path))


@pytest.fixture
def folders(tmp_path):
    """Three cases; predictions have another ending than references."""
    rng = np.random.default_rng(0)
    maps = {}
    for name in ("case_a", "case_b", "Fall ä, (1)=x"):
        prediction, reference = rng.integers(0, 3, (2, 4, 5, 6)).astype(np.uint8)
        write(tmp_path / "pred" / f"{name}.nrrd", prediction)
        write(tmp_path / "raw" / "labelsTr" / f"{name}.nii.gz", reference)
        maps[name] = prediction, reference
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return tmp_path / "pred", tmp_path / "raw" / "labelsTr", maps


def dice(maps, label):
    return np.mean([f1_score((r == label).ravel(), (p == label).ravel()) for p, r in maps.values()])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_is_evaluated_with_or_without_processes(folders, workers):
    prediction, reference, maps = folders
    summary = evaluate_folder(prediction, reference, Labels.from_json({"labels": LABELS}), num_workers=workers).summary
    assert len(summary["metric_per_case"]) == 3
    for label in (1, 2):
        assert summary["mean"][str(label)]["Dice"] == pytest.approx(dice(maps, label))


def test_processes_keep_to_the_processors_that_the_job_may_use(monkeypatch):
    monkeypatch.setattr(folder, "available_cpus", lambda: 3)
    assert folder._choose_workers(100, None) == 3
    assert folder._choose_workers(2, None) == 0
    assert folder._choose_workers(100, 5) == 5


def test_without_labels_every_value_of_the_references_is_a_class(folders):
    prediction, reference, _ = folders
    assert list(evaluate_folder(prediction, reference).summary["mean"]) == ["1", "2"]


def test_all_problems_come_at_once_and_nothing_is_written(folders):
    prediction, reference, maps = folders
    (reference / "case_a.nii.gz").write_bytes(b"no image")
    write(prediction / "case_b.nrrd", maps["case_b"][0][:3])
    write(prediction / "Fall ä, (1)=x.nrrd", maps["case_b"][0], spacing=(1.0, 1.0, 2.0))
    with pytest.raises(VerificationError) as caught:
        evaluate.run(prediction, reference)
    found = {problem.case: problem.what for problem in caught.value.problems}
    assert set(found) == set(maps)
    assert "3×5×6" in found["case_b"]
    assert "spacing" in found["Fall ä, (1)=x"]
    assert not (prediction / "summary.json").exists()


def test_cases_without_a_partner_are_all_named(folders):
    prediction, reference, maps = folders
    write(prediction / "extra.nrrd", maps["case_a"][0])
    (prediction / "case_b.nrrd").unlink()
    with pytest.raises(VerificationError) as caught:
        evaluate_folder(prediction, reference)
    assert {problem.case for problem in caught.value.problems} == {"extra", "case_b"}


def test_a_shifted_prediction_is_refused(folders):
    prediction, reference, maps = folders
    write(prediction / "case_a.nrrd", maps["case_a"][0], origin=(0.0, 0.0, 30.0))
    with pytest.raises(VerificationError) as caught:
        evaluate_folder(prediction, reference)
    assert "origin or direction" in caught.value.problems[0].what


def test_a_label_map_renumbers_predictions_and_drops_what_it_lacks(folders, tmp_path):
    prediction, reference, maps = folders
    for name, (predicted, _) in maps.items():
        write(prediction / f"{name}.nrrd", np.array([77, 5, 50], np.uint8)[predicted])
    (tmp_path / "map.yaml").write_text("5: 1\n50: 2\n")
    summary = evaluate_folder(prediction, reference, label_map=tmp_path / "map.yaml").summary
    for label in (1, 2):
        assert summary["mean"][str(label)]["Dice"] == pytest.approx(dice(maps, label))


@pytest.mark.parametrize("text", ["", "- 1", "a: 1", "1: 9", "1: -1", "1: [2]", "{", "1: true"])
def test_label_maps_that_cannot_work_are_refused(folders, tmp_path, text):
    prediction, reference, _ = folders
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"map\.yaml"):
        evaluate_folder(prediction, reference, label_map=tmp_path / "map.yaml")


def test_values_that_no_label_has_are_noted(folders):
    prediction, reference, maps = folders
    write(prediction / "case_a.nrrd", np.where(maps["case_a"][0] == 1, 9, maps["case_a"][0]).astype(np.uint8))
    notes = evaluate_folder(prediction, reference, Labels.from_json({"labels": LABELS})).notes
    assert [(note.case, note.fatal) for note in notes] == [("case_a", False)]
    assert "9" in notes[0].what


def test_the_job_writes_the_summary_and_prints_names_and_means(folders, capsys):
    prediction, reference, maps = folders
    assert evaluate.run(prediction, reference) == 0
    summary = json.loads((prediction / "summary.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["class", "Dice", "IoU", "cases"]
    assert lines[1].split()[:3] == ["a", "1", f"{dice(maps, 1):.4f}"]
    assert lines[3].split()[-3:] == [
        f"{summary['foreground_mean']['Dice']:.4f}",
        f"{summary['foreground_mean']['IoU']:.4f}",
        "3",
    ]
    assert evaluate.run(prediction, reference, output=prediction.parent / "elsewhere") == 0
    assert json.loads((prediction.parent / "elsewhere" / "summary.json").read_text()) == summary


def test_single_files_are_compared_and_nothing_is_written(folders, capsys):
    prediction, reference, maps = folders
    assert evaluate.run(prediction / "case_a.nrrd", reference / "case_a.nii.gz") == 0
    expected = f1_score((maps["case_a"][1] == 2).ravel(), (maps["case_a"][0] == 2).ravel())
    assert f"{expected:.4f}" in capsys.readouterr().out
    assert not list(prediction.glob("*.json"))
