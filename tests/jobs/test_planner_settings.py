"""The node `planner` of the command line: constants are set, wrong ones refused, card and memory read."""

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from segplan.entry import main
from segplan.entry.compose import compose_job
from segplan.errors import ConfigError, PlanError
from segplan.jobs import measured_memory, planner_settings
from segplan.planning import PlannerSettings, Trial

CONFIGS = Path(__file__).parents[2] / "configs"
OVERRIDES = {
    "name": ("other", "[1]"),
    "network": ("residual_unet", "transformer"),
    "rules": ("decathlon2018", "none"),
    "gpu_memory_gb": (24.5, "0"),
    "memory": ("measured", "guessed"),
    "repair": (True, "2"),
    "reference_memory_gb": (16.0, "-1"),
    "reference_features_2d": (1e7, "many"),
    "reference_features_3d": (1e8, "0"),
    "reference_batch_size_2d": (6, "1.5"),
    "reference_batch_size_3d": (4, "0"),
    "shrink_patch_for": ("reference_batch", "nothing"),
    "min_batch_size": (4, "0"),
    "max_dataset_fraction": (0.2, "1.2"),
    "initial_patch_edge_2d": (512, "0"),
    "initial_patch_edge_3d": (128, "x"),
    "batch_pixels_2d": (1000, "0"),
    "base_features": (16, "0"),
    "max_features_2d": (256, "none"),
    "max_features_3d": (256, "true"),
    "convs_per_stage": (3, "0"),
    "convs_per_stage_decoder": (1, "0"),
    "blocks_per_stage": ((1, 2), "[0]"),
    "stunet_features": ((8, 16, 16, 16, 16, 16), "[8]"),
    "stunet_blocks_per_stage": ((2, 2, 2, 2, 2, 2), "[1,1]"),
    "min_bottleneck_edge": (2, "0"),
    "max_poolings_2d": (5, "0"),
    "max_poolings_3d": (5, "two"),
    "pooling_spacing_ratio": (1.5, "1"),
    "slicewise_ratio": (4.0, "0.5"),
    "anisotropy_ratio": (4.0, "0.5"),
    "anisotropic_percentile": (25.0, "0"),
    "lowres_patch_fraction": (0.5, "2"),
    "lowres_spacing_step": (1.1, "1"),
    "lowres_isotropy_ratio": (3.0, "1"),
    "lowres_min_reduction": (4.0, "0"),
    "nonzero_mask_fraction": (0.5, "1.1"),
    "label_resampling": ("nearest", "cubic"),
    "target_spacing": ((1, 1, 2.5), "[1,1]"),
    "transpose": (False, "1"),
    "count_heads": (True, "1"),
}


def _text(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _settings(*words: str) -> PlannerSettings:
    node = OmegaConf.to_container(compose_job("plan", list(words), Path("workspace")).planner)
    return planner_settings.planner_settings(node)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A fingerprint and its dataset.json, as words of the command line."""
    fingerprint = {
        "spacings": [[1.0, 1.0, 1.0]] * 20,
        "shapes_after_crop": [[36, 50, 35]] * 20,
        "median_relative_size_after_cropping": 1.0,
    }
    description = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "numTraining": 20}
    (tmp_path / "dataset.json").write_text(json.dumps(description | {"file_ending": ".nii.gz", "name": "Small"}))
    (tmp_path / "fingerprint.json").write_text(json.dumps(fingerprint))
    named = [f"fingerprint={tmp_path}/fingerprint.json", f"dataset_json={tmp_path}/dataset.json"]
    return [*named, "stages=[plan]", f"workspace={tmp_path}/w"]


def test_every_constant_can_be_overridden_together() -> None:
    # `adopt` names a model folder and is no constant.
    assert set(OVERRIDES) == {item.name for item in fields(PlannerSettings)} - {"adopt"}
    settings = _settings(*(f"planner.{name}={_text(value)}" for name, (value, _) in OVERRIDES.items()))
    assert settings == PlannerSettings(**{name: value for name, (value, _) in OVERRIDES.items()})


def test_every_wrong_constant_is_refused_by_name_in_one_line(files, capsys) -> None:
    for name, (_, wrong) in OVERRIDES.items():
        assert main("plan", [*files, f"planner.{name}={wrong}"]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"segplan: planner.{name.replace('stunet_blocks_per_stage', 'stunet_features')}")
        assert message.count("\n") == 1


@pytest.mark.parametrize("node", ["planner", "split"])
def test_a_constant_that_does_not_exist_is_refused_also_when_added(files, capsys, node) -> None:
    assert main("plan", [*files, f"+{node}.foo=1"]) == 2
    assert f"{node}.foo: there is no such key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "with_ignore", "without"),
    [("auto", "annotated", "votes"), ("votes", "votes", "votes"), ("nearest", "nearest", "nearest")],
)
def test_an_ignore_label_has_no_vote_unless_that_is_asked_for(files, tmp_path, word, with_ignore, without) -> None:
    description = tmp_path / "dataset.json"
    for labels, rule in (({}, without), ({"ignore": 2}, with_ignore)):
        content = json.loads(description.read_text(encoding="utf-8"))
        content["labels"] |= labels
        description.write_text(json.dumps(content), encoding="utf-8")
        assert main("plan", [*files, f"planner.label_resampling={word}", "configurations=[3d_fullres]"]) == 0
        shared = OmegaConf.load(tmp_path / "w" / "plan" / "Small" / "_dataset.yaml")
        assert shared.plan.get("label_resampling", "votes") == rule


def test_asking_for_no_configuration_is_refused(files, capsys) -> None:
    assert main("plan", [*files, "configurations=[]"]) == 2
    assert "asks for nothing" in capsys.readouterr().err


def test_auto_takes_the_smallest_cards_memory_and_refuses_where_there_is_none(monkeypatch) -> None:
    cards = [25_390_809_088, 8_589_934_592]
    monkeypatch.setattr(measured_memory, "_ask", lambda request: {"bytes": cards})
    assert _settings("planner.gpu_memory_gb=auto").gpu_memory_gb == 8.0
    monkeypatch.setattr(measured_memory, "_ask", lambda request: {"bytes": []})
    with pytest.raises(ConfigError, match=r"planner\.gpu_memory_gb=auto.*no CUDA graphics card"):
        _settings("planner.gpu_memory_gb=auto")


def test_networks_that_are_measured_are_those_of_the_configs() -> None:
    targets = {path.stem: OmegaConf.load(path)["_target_"] for path in (CONFIGS / "network").glob("*.yaml")}
    for option, name in measured_memory.NETWORKS.items():
        assert targets[option] == f"segplan.networks.{name}"


def test_measured_memory_sizes_the_plan_and_is_told(files, tmp_path, monkeypatch, capsys) -> None:
    def per_voxel(trial: Trial, limit_gb: float) -> float:
        assert limit_gb == 4
        return 5000.0 * math.prod(trial.patch_size) * trial.batch_size

    monkeypatch.setattr(planner_settings, "measure_step", per_voxel)
    words = ["planner.memory=measured", "planner.gpu_memory_gb=4", "planner.max_dataset_fraction=1"]
    assert main("plan", [*files, *words, "configurations=[3d_fullres]"]) == 0
    assert "measured     plain_unet 40×56×40 batch 2: 0.83 GB" in capsys.readouterr().out
    text = (tmp_path / "w" / "plan" / "Small" / "3d_fullres.yaml").read_text(encoding="utf-8")
    assert OmegaConf.create(text).data.batch_size == 9  # 9 × 89 600 voxels × 5000 bytes fit 4 GB, 10 do not
    assert "3.8 GB in training (measured" in text


def _trial(edge: int, batch: int) -> Trial:
    arguments = {"input_channels": 1, "num_classes": 2, "features": (8, 16), "strides": ((1, 1, 1), (2, 2, 2))}
    arguments["kernel_sizes"] = ((3, 3, 3), (3, 3, 3))
    return Trial("plain_unet", tuple(arguments.items()), (edge,) * 3, batch)


def test_a_training_step_is_measured_in_a_process_of_its_own() -> None:
    taken = measured_memory.measure_step(_trial(32, 4), limit_gb=4)
    # 8 features, 2 + 3 maps of them at full resolution in at least 2 bytes: that much, and not absurdly more.
    least = 5 * 8 * 32**3 * 4 * 2
    assert least < taken < 40 * least


def test_a_step_that_exhausts_the_memory_does_not_fit() -> None:
    assert measured_memory.measure_step(_trial(128, 8), limit_gb=0.1) == math.inf


def test_a_step_that_fails_otherwise_says_why() -> None:
    with pytest.raises(PlanError, match=r"could not be measured \(KeyError: 'perceptron'\).*memory=estimated"):
        measured_memory.measure_step(Trial("perceptron", (), (8, 8, 8), 1), limit_gb=1)


def test_a_plan_that_cannot_run_is_written_marked_and_not_recommended(files, tmp_path, capsys) -> None:
    fingerprint = json.loads((tmp_path / "fingerprint.json").read_text())
    (tmp_path / "fingerprint.json").write_text(json.dumps(fingerprint | {"shapes_after_crop": [[7, 7, 7]] * 20}))
    assert main("plan", [*files, "configurations=[3d_fullres]"]) == 0
    printed = capsys.readouterr().out
    assert "cannot run: the median image, 7×7×7, is too small to be halved" in printed
    assert "train.py" not in printed
    assert main("train", ["plan=Small/3d_fullres", "fold=0", files[-1]]) == 2
    refused = capsys.readouterr().err
    assert "too small to be halved" in refused
    assert "planner.repair=true" in refused
    assert main("plan", [*files, "configurations=[3d_fullres]", "planner.repair=true"]) == 0
    assert "8×8×8" in capsys.readouterr().out
