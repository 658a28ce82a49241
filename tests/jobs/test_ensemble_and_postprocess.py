import json

import numpy as np
import pytest
import SimpleITK

from segplan.cli import main
from segplan.errors import ConfigError, StoreError
from segplan.imaging import read_label_map
from segplan.inference.npz_probabilities import open_probabilities
from segplan.inference.probabilities import ProbabilityWriter
from segplan.jobs.postprocess import read_steps

SHAPE, SPACING = (3, 6, 7), (3.0, 0.5, 0.7)
REGIONS = {"labels": {"background": 0, "both": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
PLAIN = {"labels": {"background": 0, "a": 1, "b": 2}}


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    SimpleITK.WriteImage(image, str(path))


def predictions(folder, dataset, *, stored=False, cases=("a", "b"), seed=0):
    rng = np.random.default_rng(seed)
    channels = 2 if "regions_class_order" in dataset else 3
    found = {}
    for case in cases:
        values = rng.dirichlet(np.ones(channels), SHAPE).transpose(3, 0, 1, 2).astype(np.float32)
        write(folder / f"{case}.nii.gz", np.zeros(SHAPE, np.uint8))
        if stored:
            kind = "sigmoid" if "regions_class_order" in dataset else "softmax"
            with ProbabilityWriter(
                folder / f"{case}.probabilities", channels, SHAPE, kind=kind, dtype="float32"
            ) as out:
                out.write(0, values)
        else:
            np.savez_compressed(folder / f"{case}.npz", probabilities=values)
        found[case] = values
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return found


@pytest.mark.parametrize("dataset", [PLAIN, REGIONS])
def test_an_ensemble_labels_the_mean_of_files_and_stores(tmp_path, dataset):
    first = predictions(tmp_path / "one", dataset)
    second = predictions(tmp_path / "two", dataset, stored=True, seed=1)
    assert main(["ensemble", str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "out")]) == 0
    for case in ("a", "b"):
        mean = (first[case] + second[case]) / 2
        expected = mean.argmax(axis=0)
        if dataset is REGIONS:
            expected = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
        written = read_label_map(tmp_path / "out" / f"{case}.nii.gz")
        np.testing.assert_array_equal(written.array[0], expected)
        assert written.spacing == pytest.approx(SPACING)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == dataset


def test_ensembles_of_different_cases_are_refused_case_by_case(tmp_path, capsys):
    predictions(tmp_path / "one", PLAIN)
    predictions(tmp_path / "two", PLAIN, cases=("a", "c"))
    assert main(["ensemble", str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "out")]) == 2
    text = "".join(capsys.readouterr())
    assert "b" in text
    assert "no probabilities in" in text
    assert main(["ensemble", str(tmp_path / "one"), str(tmp_path / "out")]) == 2
    assert "no ensemble" in capsys.readouterr().err


def test_a_damaged_file_of_probabilities_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(StoreError, match=r"a\.npz"), open_probabilities(tmp_path / "a.npz", "softmax"):
        pass


def test_postprocessing_reads_the_selection_plain_steps_and_nnunets_file(tmp_path, capsys):
    array = np.zeros(SHAPE, np.uint8)
    array[0, :3, :3], array[2, 5, 5:], array[0, 5, 6] = 1, 2, 2
    write(tmp_path / "pred" / "a.nii.gz", array)
    step = "{operation: keep_largest_component, labels: [2]}"
    (tmp_path / "inference.yaml").write_text(f"dataset: D\nmembers: [{{plan: D/2d}}]\npostprocessing: [{step}]\n")
    (tmp_path / "steps.yaml").write_text(f"- {step}\n")
    function = "remove_all_but_largest_component_from_segmentation"
    content = {"postprocessing_fns": [function], "postprocessing_kwargs": [{"labels_or_regions": 2}]}
    (tmp_path / "postprocessing.json").write_text(json.dumps(content))
    expected = array.copy()
    expected[0, 5, 6] = 0
    for number, name in enumerate(("inference.yaml", "steps.yaml", "postprocessing.json")):
        output = tmp_path / str(number)
        assert main(["postprocess", str(tmp_path / "pred"), str(output), str(tmp_path / name)]) == 0
        np.testing.assert_array_equal(read_label_map(output / "a.nii.gz").array[0], expected)
    assert "1 label maps, 1 changed by 1 steps" in capsys.readouterr().out
    assert main(["postprocess", str(tmp_path / "pred"), str(tmp_path / "pred"), str(tmp_path / "steps.yaml")]) == 2
    assert "is the folder of the predictions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"]}, "no postprocessing.json"),
        ({"steps": []}, "no list of steps"),
    ],
)
def test_files_that_hold_no_steps_are_refused_with_what_can_be_given(tmp_path, content, said):
    file = tmp_path / "steps.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as refused:
        read_steps(file)
    assert "inference.yaml" in str(refused.value)
