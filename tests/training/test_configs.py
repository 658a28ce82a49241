"""Each default of the method stands in a signature; the shipped YAML must say the same."""

import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from segplan.inference import InferenceSettings
from segplan.jobs.instantiate import locate
from segplan.training import SegmentationModule
from segplan.training.callbacks import Checkpoints

CONFIGS = Path(__file__).parents[2] / "configs"
OWN = ("network", "loss", "schedule")
ALL = [*OWN, "optimizer", "module", "trainer", "callbacks", "logger", "checkpoint", "validation", "finetune"]


def defaults(target) -> dict:
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def files(*groups: str) -> list[Path]:
    return [path for group in groups for path in sorted((CONFIGS / group).glob("*.yaml"))]


@pytest.mark.parametrize("path", files(*OWN), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_values_equal_the_signatures_defaults(path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    expected = defaults(locate(node.pop("_target_")))
    # Told by the job, set by the plan, or belonging to another node.
    missing = set(expected) - set(node) - {"ignore_label", "deep_supervision", "regions"}
    assert not missing
    shared = node.keys() & expected.keys()
    assert shared
    assert {key: node[key] for key in shared} == {key: expected[key] for key in shared}


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("module/default", SegmentationModule),
        ("checkpoint/default", Checkpoints),
        ("inference/default", InferenceSettings),
    ],
)
def test_values_of_nodes_without_a_target_equal_the_signatures_defaults(file, target):
    node = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{file}.yaml"))
    expected = defaults(target)
    shared = node.keys() & expected.keys()
    assert shared
    assert {key: node[key] for key in shared} == {key: expected[key] for key in shared}


@pytest.mark.parametrize("path", files(*ALL), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_opens_with_what_it_is_for_and_documents_its_keys(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert any(line.startswith("#   python train.py") for line in lines)


def test_the_optimiser_is_nnunets():
    node = OmegaConf.to_container(OmegaConf.load(CONFIGS / "optimizer" / "sgd.yaml"))
    assert node == {
        "_target_": "torch.optim.SGD",
        "lr": 0.01,
        "momentum": 0.99,
        "nesterov": True,
        "weight_decay": 3e-5,
    }
