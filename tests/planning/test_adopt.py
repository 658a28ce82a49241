from dataclasses import replace

import pytest
import torch
import yaml
from plan_fixtures import fixture_inputs

from segplan.errors import ConfigError, ModelError
from segplan.model_folder import write_model_json
from segplan.networks import PlainUNet, STUNet
from segplan.planning import PRESETS, emit, plan_dataset

POOLS = [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 1, 2]]
CT = {"mean": 50.0, "std": 20.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}


def write_model(folder, network, patch=(128, 128, 128), spacing=(1.5, 1.5, 1.5), scheme="zscore", **more):
    known = CT if scheme == "ct" else None
    plan = {"labels": {"background": 0, "a": 1}, "spacing": list(spacing), "transpose": [0, 1, 2], "num_classes": 2}
    plan |= {"normalization": [scheme], "use_mask_for_norm": [False], "intensities": [known], **more}
    axes = tuple(range(len(patch)))
    write_model_json(folder, name="Source/net", plan=plan, patch_size=patch, network=network, mirror_axes=axes)
    return str(folder)


def stunet(**changes):
    network = {"name": "STUNet", "input_channels": 1, "num_classes": 105, "features": [32, 64, 128, 256, 512, 512]}
    return network | {"blocks_per_stage": [1] * 6, "strides": POOLS} | changes


def adopted(model, dataset="Prostate", configurations=("2d", "3d_fullres")):
    fingerprint, description = fixture_inputs(dataset)
    settings = replace(PRESETS["default"], adopt=model)
    return plan_dataset(fingerprint, description, settings, configurations, plan_name="adopted")


def test_patch_spacing_normalisation_and_pools_are_the_models_and_labels_the_datasets(tmp_path):
    plan = adopted(write_model(tmp_path / "m", stunet()))
    assert list(plan.configurations) == ["3d_fullres"]
    assert "Source/net" in plan.not_planned["2d"]
    own = plan.configurations["3d_fullres"]
    assert own.spacing == (1.5, 1.5, 1.5)
    assert own.patch_size == (128, 128, 128)
    assert own.network == "stunet"
    assert own.strides == tuple(map(tuple, POOLS))
    assert own.normalization == ("zscore", "zscore")
    assert plan.num_classes == 3
    assert own.batch_size == 2
    network = dict(own.network_arguments)
    with torch.device("meta"):
        built = STUNet(input_channels=2, num_classes=3, **network)
    assert own.parameters == sum(parameter.numel() for parameter in built.parameters())


def test_the_emitted_files_say_where_the_values_come_from(tmp_path):
    plan = adopted(write_model(tmp_path / "m", stunet()))
    emit(plan, tmp_path / "plan")
    text = (tmp_path / "plan" / "3d_fullres.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert content["data"]["patch_size"] == [128, 128, 128]
    assert {"override /network": "stunet"} in content["defaults"]
    assert content["network"]["blocks_per_stage"] == [1] * 6
    assert text.count("adopted from Source/net") >= 5
    assert not (tmp_path / "plan" / "2d.yaml").exists()


def test_a_ct_models_statistics_are_adopted_too(tmp_path):
    network = {"name": "PlainUNet", "input_channels": 1, "num_classes": 2, "features": [16, 32, 64]}
    network |= {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 3, "convs_per_stage": 3}
    plan = adopted(write_model(tmp_path / "m", network, (32, 48, 48), scheme="ct"))
    assert {entry.percentile_99_5 for entry in plan.intensities} == {300.0}
    own = plan.configurations["3d_fullres"]
    assert own.normalization == ("ct", "ct")
    with torch.device("meta"):
        built = PlainUNet(input_channels=2, num_classes=3, **own.network_arguments)
    assert own.parameters == sum(parameter.numel() for parameter in built.parameters())


def test_what_cannot_be_adopted_is_refused(tmp_path):
    model = write_model(tmp_path / "m", stunet())
    with pytest.raises(ConfigError, match="3d_fullres"):
        adopted(model, configurations=("2d",))
    with pytest.raises(ModelError, match="none of segplan's"):
        adopted(write_model(tmp_path / "f", {"target": "some.Network"}))
    with pytest.raises(ModelError, match="cascade"):
        adopted(write_model(tmp_path / "c", stunet(), previous_stage="3d_lowres"))
    with pytest.raises(ModelError, match="no such model folder"):
        adopted(str(tmp_path / "absent"))
