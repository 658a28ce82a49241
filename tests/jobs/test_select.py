import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from tiny_run import make_run

from segplan.cli import main
from segplan.dataset import Labels
from segplan.errors import RunError
from segplan.evaluation import read_selection
from segplan.imaging import read_label_map
from segplan.inference.npz_probabilities import open_probabilities, probabilities_path
from segplan.jobs.cross_validation import check_same_cases, find_trained
from segplan.jobs.prediction_models import ensemble_of_file
from segplan.jobs.select import best_of
from segplan.jobs.train_fold import run as train

DATASET = "Dataset999_Tiny"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two configurations with two folds each, trained for an epoch; no probabilities."""
    folder = tmp_path_factory.mktemp("workspace")
    for configuration, rate in (("2d", 0.01), ("3d_fullres", 0.02)):
        for fold in (0, 1):
            words = [f"configuration={configuration}", f"fold={fold}", f"optimizer.lr={rate}", "trainer.max_epochs=1"]
            assert train(make_run(folder, *words)) == 0
        (folder / "plan" / DATASET / f"{configuration}.yaml").write_text("plan: {runnable: true}\n")
    return folder


def test_missing_folds_are_named_with_the_commands_that_train_them(tmp_path):
    config = make_run(tmp_path)
    (tmp_path / "plan" / DATASET / "3d_fullres.yaml").write_text("plan: {runnable: true}\n")
    with pytest.raises(RunError, match="no configuration is trained"):
        find_trained(tmp_path, DATASET, "default")
    folder = tmp_path / "runs" / DATASET / "3d_fullres" / "default" / "fold_0"
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"1 fold is not trained yet.*train plan=Dataset999_Tiny/3d_fullres fold=1"):
        find_trained(tmp_path, DATASET, "default")
    assert [each.member.folds for each in find_trained(tmp_path, DATASET, "default", folds=[0])] == [(0,)]
    with pytest.raises(RunError, match=r"no configuration of the dataset.*There are 3d_fullres"):
        find_trained(tmp_path, DATASET, "default", ["2d"])
    assert config.fold == 0


def test_trained_folds_become_a_decision_that_prediction_can_read(workspace, capsys):
    assert main(["select", DATASET, f"workspace={workspace}", "small_components=true"]) == 0
    output = capsys.readouterr().out
    assert "GB are free" in output, "what the probabilities need is printed before they are made"
    for name in ("2d", "3d_fullres", "2d + 3d_fullres"):
        assert f"\n{name} " in output
    selection = read_selection(workspace / "runs" / DATASET / "inference.yaml")
    report = json.loads((workspace / "runs" / DATASET / "selection.json").read_text())
    scores = selection.scores["candidates"]
    best = max(scores, key=scores.get)
    assert report["best"] == best
    assert [member.plan.split("/")[-1] for member in selection.members] == best.split(" + ")
    assert all(member.folds == (0, 1) for member in selection.members)
    assert selection.scores["dice_after_postprocessing"] >= selection.scores["dice_before_postprocessing"]
    assert {len(summary["metric_per_case"]) for summary in report["candidates"].values()} == {4}

    ensemble = ensemble_of_file(workspace / "runs" / DATASET / "inference.yaml", workspace)
    assert [each.folds for each in ensemble.members] == [("0", "1")] * len(selection.members)
    assert [dict(step) for step in ensemble.postprocessing] == [step.to_json() for step in selection.postprocessing]

    assert "trained again" not in capsys.readouterr().out
    ensemble.members[0].model.files.place("fold_1/weights.safetensors").touch()
    ensemble_of_file(workspace / "runs" / DATASET / "inference.yaml", workspace)
    assert f"trained again since {workspace / 'runs' / DATASET / 'inference.yaml'}" in capsys.readouterr().out

    # A configuration's score is that of its folds' own validation.
    cases = [
        case["metrics"]
        for fold in (0, 1)
        for case in json.loads((folder_of(workspace, "2d", fold) / "summary.json").read_text())["metric_per_case"]
    ]
    by_class = [np.nanmean([case[key]["Dice"] for case in cases]) for key in ("1", "2")]
    assert scores["2d"] == pytest.approx(np.nanmean(by_class), abs=1e-6)


def folder_of(workspace, configuration, fold):
    return workspace / "runs" / DATASET / configuration / "default" / f"fold_{fold}" / "validation"


def test_a_selection_elsewhere_leaves_the_first_ones_summaries_alone(workspace):
    folder = workspace / "runs" / DATASET
    before = (folder / "selection.json").read_bytes()
    words = [f"output={folder / 'flat.yaml'}", "configurations=[2d]"]
    assert main(["select", DATASET, f"workspace={workspace}", *words]) == 0
    assert (folder / "selection.json").read_bytes() == before
    assert list(json.loads((folder / "flat.selection.json").read_text())["candidates"]) == ["2d"]


def test_the_ensemble_is_the_argmax_of_the_mean_of_both(workspace, capsys):
    main(["select", DATASET, f"workspace={workspace}"])
    assert "GB are free" not in capsys.readouterr().out, "probabilities that are there are not made again"
    made = read_label_map(workspace / "runs" / DATASET / "ensembles" / "2d+3d_fullres_default" / "e.nii.gz").array[0]
    total = 0
    for configuration in ("2d", "3d_fullres"):
        path = probabilities_path(folder_of(workspace, configuration, 0), "e")
        with open_probabilities(path, "softmax") as store:
            total = total + store.read(0, store.shape[0])
    np.testing.assert_array_equal(made, total.argmax(axis=0))


def test_one_configuration_and_fold_need_no_probabilities(workspace, tmp_path, capsys):
    words = [
        f"workspace={workspace}",
        "configurations=[2d]",
        "folds=[1]",
        f"output={tmp_path / 'a.yaml'}",
        "metric=hd95",
    ]
    assert main(["select", DATASET, *words]) == 0
    assert "GB are free" not in capsys.readouterr().out
    selection = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert selection["members"] == [{"plan": f"{DATASET}/2d", "run": "default", "folds": [1], "checkpoint": "final"}]
    assert selection["scores"]["metric"] == "HD95"
    assert selection["scores"]["cases"] == 2


def test_words_that_cannot_work_are_refused(workspace, capsys):
    for words, message in [
        (["metric=volume"], "no metric volume"),
        (["folds=[all]"], "all is no fold"),
        (["ensembles=perhaps"], "must be true or false"),
        (["run=other"], "no configuration is trained"),
        (["folds=[0,7]"], "there is no fold 7. There are 0, 1."),
        (["output=folder"], "output=folder: is no YAML file"),
    ]:
        assert main(["select", DATASET, f"workspace={workspace}", *words]) == 2
        assert message in capsys.readouterr().err


def test_commands_for_missing_folds_carry_the_overrides_of_the_others(workspace, tmp_path):
    shutil.copytree(workspace, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "runs" / DATASET / "2d" / "default" / "fold_1")
    config = OmegaConf.load(folder_of(workspace, "2d", 0).parent / "config.yaml")
    config.optimizer.lr = 0.5
    with pytest.raises(
        RunError, match=r"fold is not trained yet. Train: segplan train \S*2d fold=1 .*optimizer.lr=0.01"
    ):
        find_trained(tmp_path / "w", DATASET, "default", compose=lambda plan: OmegaConf.to_container(config))


def test_configurations_with_different_labels_are_not_compared(workspace):
    one, other = find_trained(workspace, DATASET, "default", ["2d", "3d_fullres", "2d"])
    check_same_cases([one, other])
    labels = Labels.from_json({"labels": {"background": 0, "a": 1, "other": 2}})
    with pytest.raises(RunError, match="3d_fullres and 2d were trained with different labels"):
        check_same_cases([one, replace(other, labels=labels)])


def test_the_best_is_the_first_of_equals_and_never_what_has_no_score():
    assert best_of([0.5, 0.7, float("nan"), 0.7]) == 1
    assert best_of([2.0, 1.0, 1.0], lower=True) == 1
