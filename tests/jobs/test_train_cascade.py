"""Both stages of a cascade: what the first leaves for the second, what that trains on, and the chain's commands."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_cascade import FIRST, SECOND, make_stage
from tiny_run import CASES
from torch.nn import functional as F

from segplan.cli import main
from segplan.entry import slurm_chain
from segplan.errors import ConfigError, DatasetError, PlanError, RunError, StoreError
from segplan.imaging import read_label_map
from segplan.inference import Predictor
from segplan.jobs.cascade import chain
from segplan.jobs.cascade import run as run_chain
from segplan.jobs.next_stage import labels_on_grid, next_stages
from segplan.jobs.plan_node import store_folder
from segplan.jobs.prepare import fold_folder, prepare_run, run_folder
from segplan.jobs.previous_stage import folds_of_cases, weights_hash
from segplan.jobs.train_fold import run
from segplan.jobs.training_parts import build_data
from segplan.jobs.training_setup import prepare_training
from segplan.model_folder import ModelFolder
from segplan.preprocessing import CaseStore, Maker, StageSegmentations

# Folds 0 and 1 validate with e, f and with a, b; c and d are trained on by both.
SPLITS = [{"train": list("abcd"), "val": list("ef")}, {"train": list("ef"), "val": list("abcd")}]


def workspace_in(folder):
    make_stage(folder, FIRST)
    (folder / "plan/Dataset999_Tiny/splits_final.json").write_text(json.dumps(SPLITS))
    return folder


def segmentations(workspace, name="default"):
    return StageSegmentations(workspace / f"runs/Dataset999_Tiny/{FIRST}/{name}/predicted_next_stage/{SECOND}")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A workspace whose first stage is trained."""
    workspace = workspace_in(tmp_path_factory.mktemp("cascade"))
    for fold in (0, 1):
        assert run(make_stage(workspace, FIRST, fold=fold)) == 0
    return workspace


@pytest.fixture(scope="module")
def second(first):
    """Its second stage's fold 0."""
    config = make_stage(first, SECOND, fold=0)
    assert run(config) == 0
    return config


def test_without_its_first_stage_training_names_the_commands(tmp_path):
    config = make_stage(workspace_in(tmp_path), SECOND, fold=0)
    shutil.rmtree(tmp_path / "runs" / "Dataset999_Tiny" / FIRST)
    with pytest.raises(StoreError) as refused:
        prepare_run(config)
    text = str(refused.value)
    assert "6 of 6 cases (a, b, c, …)" in text
    assert f"python train.py -m plan=Dataset999_Tiny/{FIRST} fold=0,1 run=default" in text
    assert "segplan cascade Dataset999_Tiny run=default" in text


def test_each_case_is_segmented_by_the_fold_that_did_not_train_on_it(first):
    made = segmentations(first)
    model = first / f"runs/Dataset999_Tiny/{FIRST}/default"
    store = prepare_training(make_stage(first, SECOND, fold=0)).store
    for case in CASES:
        maker = made.maker(case)
        assert maker.fold == ("0" if case in "ef" else "1")
        assert maker.weights == weights_hash(model, maker.fold)
        assert made.open(case).shape == store.open(case).image.shape[1:]


def test_the_second_stage_is_validated_and_takes_its_first_stage_along(second):
    folder = run_folder(second)
    assert len(json.loads((folder / "fold_0/validation/summary.json").read_text())["metric_per_case"]) == 2
    taken = ModelFolder.open(folder).previous
    assert taken.folds() == ("0", "1")
    source = run_folder(second).parents[1] / FIRST / "default"
    assert weights_hash(taken.path, "1") == weights_hash(source, "1")
    identity = json.loads((folder / "identity.json").read_text())
    assert identity["previous_stage.fold_0"] == weights_hash(source, "0")


def test_prediction_by_both_stages_agrees_with_the_validation(second, tmp_path):
    """With the first stage's fold that did not see the cases, both give the second the same labels."""
    model = tmp_path / "model"
    shutil.copytree(run_folder(second), model)
    shutil.rmtree(model / "previous" / "fold_1")
    store = prepare_training(second).store
    predictor = Predictor.from_model(model, 0, device="cpu", mirror=False, precision=32)
    for case in "ef":
        stored = store.open(case)
        predicted = predictor.predict(stored.image[0], stored.properties.spacing)
        validated = read_label_map(fold_folder(second) / "validation" / f"{case}.nii.gz").array[0]
        assert (predicted == validated).mean() > 0.999  # normalised twice here, so not bit for bit
        assert len(np.unique(validated)) > 1


def test_a_missing_segmentation_is_made_again_without_training(first, second, capsys):
    made, config = segmentations(first), make_stage(first, FIRST, fold=0)
    before, labels = made.maker("e"), made.open("e").copy()
    (made.folder / "e.json").unlink()
    with pytest.raises(StoreError, match=r"1 of 6 cases \(e\).*python -m segplan.jobs.train .*fold_0/config.yaml; or"):
        prepare_run(second)
    weights = fold_folder(config) / "weights.safetensors"
    age = weights.stat().st_mtime_ns
    assert run(config) == 0
    assert weights.stat().st_mtime_ns == age
    assert made.maker("e") == before
    np.testing.assert_array_equal(made.open("e"), labels)
    capsys.readouterr()
    assert run(config) == 0
    assert "nothing is left to do" in capsys.readouterr().out


def test_another_first_stage_is_another_run(first, second, tmp_path):
    workspace = tmp_path / "workspace"
    shutil.copytree(first, workspace)
    config = make_stage(workspace, SECOND, fold=0)
    prepare_run(config)
    source = workspace / f"runs/Dataset999_Tiny/{FIRST}/default"
    shutil.copyfile(source / "fold_1/weights.safetensors", source / "fold_0/weights.safetensors")
    with pytest.raises(StoreError, match=r"2 of 6 cases \(e, f\) have no segmentation by the fold"):
        prepare_run(config)
    made = segmentations(workspace)
    for case in "ef":
        maker = replace(made.maker(case), weights=weights_hash(source, "0"))
        made.write(case, np.asarray(made.open(case)), maker)
    with pytest.raises(RunError, match=r"another config \(previous_stage.fold_0"):
        prepare_run(config)


def test_fold_all_trains_on_what_the_numbered_folds_made(first, second):
    setup = prepare_training(make_stage(first, SECOND, fold="all"))
    assert set(setup.split.train) == set(CASES)
    assert setup.previous.fold_of == {**dict.fromkeys("ef", "0"), **dict.fromkeys("abcd", "1")}


def test_a_first_stage_trained_on_all_cases_leaves_nothing(first):
    assert len(next_stages(prepare_training(make_stage(first, FIRST, fold=0)))) == 1
    assert next_stages(prepare_training(make_stage(first, FIRST, fold="all"))) == []
    assert next_stages(prepare_training(make_stage(first, FIRST, fold=7))) == []  # a random split of all cases


def test_a_first_stage_of_regions_hands_on_labels(tmp_path):
    """Both regions paint their label where they are, the later over the earlier."""
    make_stage(tmp_path, FIRST, regions=True)
    (tmp_path / "plan/Dataset999_Tiny/splits_final.json").write_text(json.dumps(SPLITS))
    setup = prepare_training(make_stage(tmp_path, FIRST, fold=0, regions=True))
    case = setup.store.open("e")
    logits = torch.full((2, *case.image.shape[1:]), -1.0)
    logits[0, :4], logits[1, :2] = 1.0, 1.0
    target = replace(setup.preprocessing, spacing=(1.0, 1.0, 1.0))
    labels = labels_on_grid(iter([logits]), case.properties, setup, target)
    assert labels[:, 0, 0].tolist()[:7] == [2, 2, 2, 1, 1, 1, 0]
    second = make_stage(tmp_path, SECOND, fold=0, regions=True)
    source = run_folder(setup.config)
    made = StageSegmentations(source / "predicted_next_stage" / SECOND)
    store = CaseStore(store_folder(tmp_path, second.plan))
    for name in CASES:
        fold = "0" if name in "ef" else "1"
        made.write(name, np.maximum(store.open(name).labels, 0), Maker("A", "default", fold, "x"))
    sample = build_data(prepare_training(second)).train_dataset()[0]
    assert sample["image"].shape[0] == 1 + 2  # labels, not regions: one mask each
    for label in (1, 2):
        assert torch.equal(sample["image"][label], (sample["labels"] == label).float())


def test_logits_are_resampled_linearly_to_the_next_grid(first):
    setup = prepare_training(make_stage(first, FIRST, fold=0))
    case = setup.store.open("e")
    logits = torch.randn((3, *case.image.shape[1:]), generator=torch.Generator().manual_seed(0))
    target = prepare_training(make_stage(first, SECOND, fold=0)).preprocessing
    labels = labels_on_grid(iter(logits.split(3, dim=1)), case.properties, setup, target)
    full = F.interpolate(logits[None], size=labels.shape, mode="trilinear", align_corners=False)[0]
    assert labels.shape == (12, 20, 24)
    assert (labels == full.argmax(0).numpy()).mean() > 0.9999


def test_a_case_of_no_validation_list_is_named(first):
    config = make_stage(first, SECOND, fold=0)
    path = first / "plan/Dataset999_Tiny/splits_final.json"
    before = path.read_text()
    path.write_text(json.dumps([SPLITS[0], {"train": list("efd"), "val": list("abc")}]))
    try:
        with pytest.raises(StoreError, match=r"1 cases \(d\) are in no fold's val list"):
            prepare_run(config)
    finally:
        path.write_text(before)
    assert folds_of_cases([]) == {}


def commands_of(workspace, *overrides, **more):
    first, second = chain(workspace, "Dataset999_Tiny", overrides, **more)
    return [" ".join(words) for words in (*first, *second)]


def test_the_chain_trains_every_first_fold_and_then_the_second_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGPLAN_WORKSPACE", str(tmp_path))
    workspace_in(tmp_path)
    assert commands_of(tmp_path, "seed=1", folds="1,all") == [
        "plan=Dataset999_Tiny/3d_lowres run=default fold=0 seed=1",
        "plan=Dataset999_Tiny/3d_lowres run=default fold=1 seed=1",
        "plan=Dataset999_Tiny/3d_cascade_fullres run=default plan.previous_stage_run=default fold=1 seed=1",
        "plan=Dataset999_Tiny/3d_cascade_fullres run=default plan.previous_stage_run=default fold=all seed=1",
    ]
    named = commands_of(tmp_path, "run=b", "plan.previous_stage_run=a")
    assert [command.split()[1] for command in named] == ["run=a", "run=a", "run=b", "run=b"]
    assert "plan.previous_stage_run=a" in named[-1]


def test_the_chain_stops_at_what_fails_and_prints_what_it_does(tmp_path, capsys):
    workspace_in(tmp_path)
    assert run_chain(tmp_path, "Dataset999_Tiny", train=lambda words: int("fold=1" in words) * 3) == 3
    captured = capsys.readouterr()
    assert captured.out.count("python train.py") == 2
    assert "[2/4]" in captured.out
    assert "the same command goes on" in captured.err
    assert run_chain(tmp_path, "Dataset999_Tiny", train=None) == 0
    assert capsys.readouterr().out.count("python train.py") == 4


def test_on_a_cluster_the_second_stage_waits_for_every_fold_of_the_first(tmp_path, monkeypatch):
    workspace_in(tmp_path)
    links = []

    def run_chain_there(given, launcher, workspace):
        assert (launcher.mem_gb, workspace) == (4, tmp_path)
        links.extend(given)
        return {link.name: 0 for link in given[:-1]} | {given[-1].name: 3}

    monkeypatch.setattr(slurm_chain, "run_chain", run_chain_there)
    words = ["hydra/launcher=slurm", "hydra.launcher.mem_gb=4", "seed=1", "folds=1", f"workspace={tmp_path}"]
    assert main(["cascade", "Dataset999_Tiny", *words]) == 3
    names = [f"plan=Dataset999_Tiny/3d_lowres run=default fold={fold}" for fold in (0, 1)]
    names.append("plan=Dataset999_Tiny/3d_cascade_fullres run=default fold=1")
    assert [link.name for link in links] == names
    assert [list(link.after) for link in links] == [[], [], names[:2]]
    assert all("seed=1" in link.words and link.log is None for link in links)


def test_what_the_chain_cannot_do_is_refused(tmp_path):
    workspace_in(tmp_path)
    with pytest.raises(PlanError, match="not planned"):
        run_chain(tmp_path, "Dataset000_None", train=None)
    with pytest.raises(ConfigError, match="folds=x"):
        run_chain(tmp_path, "Dataset999_Tiny", train=None, folds="x")
    with pytest.raises(ConfigError, match="fold=1"):
        run_chain(tmp_path, "Dataset999_Tiny", ["fold=1"], train=None)
    (tmp_path / "plan/Dataset999_Tiny/splits_final.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"split\.k=2"):
        run_chain(tmp_path, "Dataset999_Tiny", train=None)
