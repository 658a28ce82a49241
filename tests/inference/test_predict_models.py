"""Zips, ensembles, cascades and further outputs of the predict job."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_fixture import DATA, import_fixture
from omegaconf import OmegaConf
from test_predict_job import config_of

from segplan.cli import main
from segplan.errors import ConfigError, ModelError
from segplan.evaluation.postprocessing import apply_postprocessing
from segplan.imaging import read_image, read_label_map
from segplan.inference import EnsemblePredictor, Predictor
from segplan.inference.probabilities import ProbabilityStore
from segplan.interop.nnunet import import_model
from segplan.jobs.predict import run
from segplan.model_folder import MODEL_FILE

CASCADE = DATA.parent / "interop" / "cascade" / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"
MEMBERS = (("3d_fullres", [0]), ("2d", [0]))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("workspace")
    for name, _ in MEMBERS:
        import_fixture(name, workspace / "runs" / "D" / name / "default")
    return workspace


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for channel in range(2):
        shutil.copy(DATA / "images" / f"t0_{channel:04d}.nii.gz", tmp_path / "images")
    return tmp_path / "images"


def selection_file(folder: Path, steps=()) -> Path:
    path = folder / "inference.yaml"
    members = [
        {"plan": f"D/{name}", "run": "default", "folds": folds, "checkpoint": "final"} for name, folds in MEMBERS
    ]
    OmegaConf.save({"dataset": "D", "members": members, "postprocessing": list(steps)}, path)
    return path


def labels_in(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def mean_probabilities(workspace: Path) -> np.ndarray:
    image = read_image([DATA / "images" / f"t0_{channel:04d}.nii.gz" for channel in range(2)])
    total = 0
    for name, folds in MEMBERS:
        path = workspace / "runs" / "D" / name / "default"
        predictor = Predictor.from_model(path, folds, device="cpu", precision="32", mirror=False)
        total = total + predictor.probabilities(predictor.preprocess(image))
    return total / len(MEMBERS)


def clear(mean: np.ndarray) -> np.ndarray:
    ordered = np.sort(mean, axis=0)
    return ordered[-1] - ordered[-2] > 2e-3


def test_a_zip_gives_the_folders_label_maps_and_knows_what_it_made(workspace, images, tmp_path, capsys):
    folder = workspace / "runs" / "D" / "3d_fullres" / "default"
    assert main(["export-model", str(folder), str(tmp_path / "m.zip")]) == 0
    assert run(config_of(folder, images, tmp_path / "out")) == 0
    assert run(config_of(tmp_path / "m.zip", images, tmp_path / "zipped")) == 0
    assert (tmp_path / "out" / "t0.nii.gz").read_bytes() == (tmp_path / "zipped" / "t0.nii.gz").read_bytes()
    capsys.readouterr()
    assert run(config_of(tmp_path / "m.zip", images, tmp_path / "out")) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_an_ensemble_averages_probabilities_on_the_images_grid(workspace, images, tmp_path, capsys):
    config = config_of(None, images, tmp_path / "out", workspace=str(workspace), folds=None)
    config.selection = str(selection_file(tmp_path))
    config.save_probabilities, config.save_entropy = True, True
    assert run(config) == 0
    assert "ensemble Dataset011_FixLabels/3d_fullres fold 0 + Dataset011_FixLabels/2d fold 0" in capsys.readouterr().out
    mean, labels = mean_probabilities(workspace), labels_in(tmp_path / "out" / "t0.nii.gz")
    assert clear(mean).mean() > 0.95
    assert np.array_equal(labels[clear(mean)], mean.argmax(0)[clear(mean)])
    store = ProbabilityStore.open(tmp_path / "out" / "t0.probabilities")
    assert np.abs(store.read(0, len(labels)) - mean).max() < 2e-3
    entropy = read_image([tmp_path / "out" / "entropy" / "t0.nii.gz"])
    assert np.abs(entropy.array[0] + (mean * np.log(np.maximum(mean, 1e-12))).sum(0)).max() < 1e-2
    assert entropy.geometry == read_label_map(tmp_path / "out" / "t0.nii.gz").geometry
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["entropy", "predict.json", "t0.nii.gz", "t0.probabilities"]
    assert run(config) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_an_ensemble_cannot_be_fast(workspace, images, tmp_path):
    config = config_of(None, images, tmp_path / "out", workspace=str(workspace), folds=None, inference__mode="fast")
    config.selection = str(selection_file(tmp_path))
    with pytest.raises(ConfigError, match="an ensemble averages probabilities"):
        run(config)


def test_an_exported_ensemble_predicts_alone_and_its_postprocessing_can_be_left_out(workspace, images, tmp_path):
    steps = [{"operation": "remove_small_components", "labels": [1], "min_volume_mm3": 1e9}]
    selection = selection_file(tmp_path, steps)
    assert main(["export-model", str(selection), str(tmp_path / "e.zip"), f"workspace={workspace}"]) == 0
    assert run(config_of(tmp_path / "e.zip", images, tmp_path / "out", folds=None)) == 0
    assert run(config_of(tmp_path / "e.zip", images, tmp_path / "raw", folds=None, postprocess=False)) == 0
    raw, done = labels_in(tmp_path / "raw" / "t0.nii.gz"), labels_in(tmp_path / "out" / "t0.nii.gz")
    spacing = read_image([images / "t0_0000.nii.gz"]).spacing
    assert np.array_equal(done, apply_postprocessing(raw, spacing, steps))
    assert not np.array_equal(done, raw)
    predictor = EnsemblePredictor.from_model(tmp_path / "e.zip", device="cpu", precision="32", mirror=False)
    labels, _ = predictor.predict_files([images / f"t0_{channel:04d}.nii.gz" for channel in range(2)])
    assert np.array_equal(labels, done)


def test_a_models_own_postprocessing_is_applied(workspace, images, tmp_path):
    model = Path(shutil.copytree(workspace / "runs" / "D" / "3d_fullres" / "default", tmp_path / "m"))
    assert run(config_of(model, images, tmp_path / "raw")) == 0
    steps = [{"operation": "keep_largest_component", "labels": [1]}]
    (model / "postprocessing.json").write_text(json.dumps(steps))
    assert run(config_of(model, images, tmp_path / "out")) == 0
    raw, done = labels_in(tmp_path / "raw" / "t0.nii.gz"), labels_in(tmp_path / "out" / "t0.nii.gz")
    assert np.array_equal(done, apply_postprocessing(raw, (1, 1, 1), steps))
    with pytest.raises(ConfigError, match="postprocessing"):
        run(config_of(model, images, tmp_path / "out", postprocess=False))


def test_a_cascade_takes_label_maps_of_its_first_stage(images, tmp_path):
    import_model(CASCADE, tmp_path / "m")
    assert run(config_of(tmp_path / "m" / "previous", images, tmp_path / "stage", folds=None)) == 0
    assert run(config_of(tmp_path / "m", images, tmp_path / "alone", folds=None)) == 0
    shutil.rmtree(tmp_path / "m" / "previous")
    given = config_of(tmp_path / "m", images, tmp_path / "given", folds=None, previous_stage=str(tmp_path / "stage"))
    assert run(given) == 0
    alone, handed = (labels_in(tmp_path / name / "t0.nii.gz") for name in ("alone", "given"))
    assert np.array_equal(alone, handed)
    with pytest.raises(ModelError, match="previous_stage=FOLDER"):
        run(config_of(tmp_path / "m", images, tmp_path / "x", folds=None))
    (tmp_path / "stage" / "t0.nii.gz").unlink()
    given.output = str(tmp_path / "y")
    with pytest.raises(ConfigError, match=r"lacks the label maps of 1 of 1 cases \(t0\)"):
        run(given)


def test_label_maps_of_another_geometry_are_no_previous_stage(images, tmp_path, capsys):
    import_model(CASCADE, tmp_path / "m")
    (tmp_path / "stage").mkdir()
    sitk.WriteImage(sitk.Image(5, 5, 5, sitk.sitkUInt8), str(tmp_path / "stage" / "t0.nii.gz"))
    config = config_of(tmp_path / "m", images, tmp_path / "out", folds=None, previous_stage=str(tmp_path / "stage"))
    assert run(config) == 2
    assert "not in the image's geometry" in capsys.readouterr().out


def test_a_model_that_is_no_cascade_takes_no_previous_stage(workspace, images, tmp_path):
    model = workspace / "runs" / "D" / "2d" / "default"
    with pytest.raises(ConfigError, match="is no cascade"):
        run(config_of(model, images, tmp_path / "out", previous_stage=str(images)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"save_probabilities": "zip"}, "save_probabilities=zip"),
        ({"save_entropy": True, "inference__mode": "fast"}, "save_entropy=True"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_the_model_is_opened(images, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        run(config_of(tmp_path / "none" / MODEL_FILE, images, tmp_path / "out", **changes))


def test_an_inference_file_on_the_command_line_is_a_selection_and_not_a_group():
    from segplan.entry.arguments import name_selection

    assert name_selection("inference=a b/inference.yaml") == "selection=a b/inference.yaml"
    assert name_selection("inference=default") == "inference=default"
    assert name_selection("inference.mirror=false") == "inference.mirror=false"
