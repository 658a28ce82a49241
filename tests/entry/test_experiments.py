"""Every shipped experiment and a sample of emitted plans compose, and what they name can be built."""

import json

import pytest
from omegaconf import OmegaConf
from small_dataset import make_dataset

from segplan.entry import main
from segplan.entry.compose import compose_job
from segplan.entry.locations import configs_folder, planned
from segplan.jobs import training_parts
from segplan.jobs.training_setup import prepare_training

EXPERIMENTS = sorted(path.stem for path in (configs_folder() / "experiment").glob("*.yaml"))
FLAT, REGIONS = {"photographs"}, {"regions"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two planned and preprocessed datasets, one of them with regions, and weights to start from."""
    root = tmp_path_factory.mktemp("experiments")
    for name, labels in (("Dataset001_Plain", None), ("Dataset002_Regions", {"whole": [1, 2], "core": 2})):
        raw = make_dataset(root / name, cases=5)
        if labels is not None:
            description = json.loads((raw / "dataset.json").read_text())
            description |= {"labels": {"background": 0, **labels}, "regions_class_order": [1, 2]}
            (raw / "dataset.json").write_text(json.dumps(description))
        assert main("plan", [f"dataset={raw}", f"workspace={root / 'w'}", "num_workers=0"]) == 0
    return root / "w"


def built(config):
    """Everything that a training consists of, up to the first step."""
    setup = prepare_training(config)
    module = training_parts.build_module(setup, {}, fresh=False)
    data = training_parts.build_data(setup)
    assert module.configure_optimizers().param_groups
    return data


def overrides(name):
    dataset = "Dataset002_Regions" if name in REGIONS else "Dataset001_Plain"
    return [f"plan={dataset}/{'2d' if name in FLAT else '3d_fullres'}", f"experiment={name}"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_can_be_built(workspace, name, tmp_path):
    words = overrides(name)
    if name == "finetuning":
        (tmp_path / "weights.safetensors").write_bytes(b"")
        words.append(f"finetune.checkpoint='{tmp_path / 'weights.safetensors'}'")
    config = compose_job("train", words, workspace)
    assert "experiment" not in config
    assert built(config) is not None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_wins_over_the_plan_and_the_command_line_over_it(workspace, name):
    own = OmegaConf.load(configs_folder() / "experiment" / f"{name}.yaml")
    config = compose_job("train", overrides(name), workspace)
    for node, values in own.items():
        if node != "defaults" and OmegaConf.is_config(values):
            assert OmegaConf.merge(config[node], values) == config[node]
    assert compose_job("train", [*overrides(name), "run=mine", "trainer.max_epochs=7"], workspace).run == "mine"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_header_says_what_it_is_for_and_the_command(name):
    lines = (configs_folder() / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
    assert any(line.startswith("#   python train.py") and f"experiment={name}" in line for line in lines)


def test_the_rules_of_2018_train_as_published(workspace):
    config = compose_job("train", overrides("decathlon2018"), workspace)
    assert config.optimizer._target_ == "torch.optim.Adam"
    assert config.schedule._target_ == "segplan.training.PlateauDecay"


def test_help_lists_the_experiments(workspace, capsys):
    assert main("train", ["--help", f"workspace={workspace}"]) == 0
    assert "experiment=decathlon2018|" in capsys.readouterr().out


@pytest.mark.parametrize("planner", ["resenc_m", "stunet_s", "decathlon2018"])
def test_emitted_plans_can_be_built(workspace, planner):
    raw = workspace.parent / "Dataset001_Plain"
    words = [f"dataset={raw}", f"workspace={workspace}", "num_workers=0", f"planner={planner}"]
    assert main("plan", words) == 0
    plans = [name for name in planned(workspace) if f"/{planner}/" in name]
    assert plans
    for name in plans:
        assert built(compose_job("train", [f"plan={name}"], workspace)) is not None
