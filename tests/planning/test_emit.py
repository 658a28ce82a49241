"""The emitted files: readable with YAML, OmegaConf and Hydra, and never overwriting what a person edited."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from plan_fixtures import description_of, fixture_inputs, fixtures

from segplan.planning import (
    PRESETS,
    DatasetPlan,
    Emission,
    Kept,
    emit,
    emitted_configurations,
    is_edited,
    plan_dataset,
)
from segplan.planning.emit import configuration_yaml, dataset_yaml
from segplan.planning.yaml_text import flow

ODD_NAME = "Dataset950_a b,c=d (ü 中)"


def _plan(name: str = "Prostate", planner: str = "default", **changes: object) -> DatasetPlan:
    fingerprint, description = fixture_inputs(name)
    return plan_dataset(fingerprint, description, replace(PRESETS[planner], **changes), dataset=f"Dataset900_{name}")


def _configs(folder: Path) -> Path:
    """A primary configuration with the groups that an emitted file overrides."""
    for group, options in {"network": ("plain_unet", "residual_unet"), "loss": ("dice_ce", "dice_bce")}.items():
        (folder / group).mkdir(parents=True)
        for option in options:
            (folder / group / f"{option}.yaml").write_text(f"_target_: {option}\n")
    for network in ("plain_unet", "residual_unet"):
        (folder / "network" / f"{network}.yaml").write_text(
            f"_target_: {network}\ninput_channels: ${{plan.input_channels}}\nnum_classes: ${{plan.num_classes}}\n"
        )
    (folder / "main.yaml").write_text(
        "defaults:\n  - network: plain_unet\n  - loss: dice_ce\n  - plan: ???\n  - _self_\nfold: 0\n"
    )
    return folder


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def _compose(tmp_path: Path, plan: DatasetPlan, option: str, *overrides: str) -> DictConfig:
    configs = tmp_path / "configs"
    if not configs.exists():
        _configs(configs)
    workspace = tmp_path / "work space, (ü)=1"
    emit(plan, workspace / "plan" / plan.group)
    search_path = f"hydra.searchpath=[{_quoted(f'file://{workspace}')}]"
    with initialize_config_dir(str(configs), version_base="1.3"):
        return compose("main", [search_path, f"plan={_quoted(f'{plan.group}/{option}')}", *overrides])


def test_composed_configuration_holds_the_plan_under_plain_nodes(tmp_path: Path) -> None:
    plan = _plan()
    config = _compose(tmp_path, plan, "3d_fullres", "data.batch_size=7")
    node = OmegaConf.to_container(config, resolve=True)
    ours = plan.configurations["3d_fullres"]
    assert set(node) == {"network", "loss", "fold", "plan", "data", "augmentation"}
    assert node["data"] == {"patch_size": [20, 320, 256], "batch_size": 7}
    assert node["network"] == {
        "_target_": "plain_unet",
        "input_channels": 2,
        "num_classes": 3,
        "strides": [list(stride) for stride in ours.strides],
        "kernel_sizes": [list(kernel) for kernel in ours.kernel_sizes],
        "features": [32, 64, 128, 256, 320, 320, 320],
    }
    assert node["loss"] == {"_target_": "dice_ce", "batch_dice": False}
    assert node["augmentation"] == {"dummy_2d": True}
    intensities = fixtures()["Prostate"]["fingerprint"]["foreground_intensity_properties_per_channel"]
    assert node["plan"] == {
        "schema_version": 1,
        "planner": "default",
        "planner_settings": {},
        "planned_from": fixture_inputs("Prostate")[0].hash(),
        "segplan_version": node["plan"]["segplan_version"],
        "fingerprint": fixture_inputs("Prostate")[0].hash(),
        "dataset": "Dataset900_Prostate",
        "configuration": "3d_fullres",
        "channels": ["T2", "ADC"],
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "regions_class_order": None,
        "ignore_label": None,
        "file_ending": ".nii.gz",
        "label_ending": ".nii.gz",
        "input_channels": 2,
        "num_classes": 3,
        "spacing": [3.59998, 0.625, 0.625],
        "transpose": [0, 1, 2],
        "median_shape": [20, 320, 319],
        "normalization": ["zscore", "zscore"],
        "use_mask_for_norm": [False, False],
        "intensities": [intensities["0"], intensities["1"]],
        "runnable": True,
    }


def test_two_dimensional_configuration_leaves_the_spacing_across_slices_to_the_case(tmp_path: Path) -> None:
    config = _compose(tmp_path, _plan(), "2d")
    assert config.plan.spacing == [None, 0.625, 0.625]
    assert config.data.patch_size == [320, 320]
    assert config.plan.common_slice_spacing is None


def test_regions_and_residual_preset_choose_loss_and_network(tmp_path: Path) -> None:
    plan = _plan("BraTS", "resenc_l")
    assert plan.group == "Dataset900_BraTS/resenc_l"
    config = _compose(tmp_path, plan, "3d_fullres")
    assert config.network._target_ == "residual_unet"
    assert config.network.blocks_per_stage == [1, 3, 4, 6, 6, 6]
    assert config.loss._target_ == "dice_bce"
    assert config.plan.labels == {
        "background": 0,
        "whole tumor": [1, 2, 3],
        "tumor core": [2, 3],
        "enhancing tumor": [3],
    }
    assert config.network.num_classes == 3


def test_cascade_names_its_stages_and_takes_the_labels_as_channels(tmp_path: Path) -> None:
    plan = _plan("Liver")
    assert _compose(tmp_path, plan, "3d_lowres").plan.next_stage == "3d_cascade_fullres"
    config = _compose(tmp_path, plan, "3d_cascade_fullres")
    assert (config.plan.previous_stage, config.plan.previous_stage_run) == ("3d_lowres", "default")
    assert (config.plan.input_channels, config.network.input_channels) == (1, 3)


def test_odd_dataset_names_compose(tmp_path: Path) -> None:
    plan = replace(_plan(), dataset=ODD_NAME)
    assert _compose(tmp_path, plan, "3d_fullres").plan.dataset == ODD_NAME


def test_users_own_file_builds_on_a_plan(tmp_path: Path) -> None:
    plan = replace(_plan(), dataset=ODD_NAME)
    own = tmp_path / "configs" / "plan" / "mine.yaml"
    _configs(tmp_path / "configs")
    own.parent.mkdir()
    own.write_text(
        f"# @package _global_\ndefaults:\n  - '/plan/{ODD_NAME}/3d_fullres'\n  - _self_\ndata:\n  batch_size: 3\n",
        encoding="utf-8",
    )
    emit(plan, tmp_path / "work space, (ü)=1" / "plan" / plan.group)
    search_path = f"hydra.searchpath=[{_quoted(f'file://{tmp_path}/work space, (ü)=1')}]"
    with initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
        config = compose("main", [search_path, "plan=mine"])
    assert config.data == {"patch_size": [20, 320, 256], "batch_size": 3}


@pytest.mark.parametrize("name", fixtures())
def test_every_file_is_yaml_with_the_nodes_in_order_and_a_reason_at_each_derived_value(name: str) -> None:
    plan = _plan(name)
    shared = yaml.safe_load(dataset_yaml(plan))
    assert list(shared) == ["plan"]
    assert len(shared["plan"]["intensities"]) == shared["plan"]["input_channels"] == len(plan.channels)
    for configuration in plan.configurations.values():
        text = configuration_yaml(plan, configuration)
        assert text.startswith("# @package _global_\n")
        node = yaml.safe_load(text)
        assert list(node) == ["defaults", "plan", "data", "network", "augmentation", "loss"]
        assert node["plan"]["configuration"] == configuration.name
        assert node["plan"]["runnable"] is (name != "Edge_tiny_no_pooling")
        assert node["data"]["patch_size"] == list(configuration.patch_size)
        assert node["network"]["features"] == list(configuration.features)
        values = [line for line in text.splitlines() if line.startswith("  ") and not line.startswith("  -")]
        given = ("configuration:", "runnable:", "not_runnable_because:")
        bare = [line for line in values if "  # " not in line and not line.strip().startswith(given)]
        assert bare == []


def test_header_says_the_commands_in_shell_quotes() -> None:
    plan = replace(_plan(), dataset=ODD_NAME)
    text = configuration_yaml(plan, plan.configurations["3d_fullres"])
    assert f"#   python train.py 'plan={ODD_NAME}/3d_fullres' fold=0\n" in text


def test_plan_that_cannot_run_says_why_and_recommends_no_command() -> None:
    plan = _plan("Edge_tiny_no_pooling")
    text = configuration_yaml(plan, plan.configurations["3d_fullres"])
    assert "too small to be halved" in yaml.safe_load(text)["plan"]["not_runnable_because"]
    assert "python train.py" not in text


@pytest.mark.parametrize(
    "value", ["yes", "null", "1e5", "a: b", "# x", "中 ü", 'say "x"', "${a.b}", "x,y", "", "3", " a "]
)
@pytest.mark.parametrize("form", ["value", "key"])
def test_any_text_survives_yaml_and_omegaconf(value: str, form: str, tmp_path: Path) -> None:
    text = f"a: {flow([value] if form == 'value' else {value: 1})}\n"
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    read = OmegaConf.to_container(OmegaConf.load(path), resolve=True)["a"]
    assert read == ([value] if form == "value" else {value: 1})


@pytest.mark.parametrize("value", [1e-05, 1.5e-07, 1e20, 0.1, 3.59998, -4.0, 2.6523352383556666, True, None, 7])
def test_numbers_are_read_back_exactly_by_plain_yaml(value: object) -> None:
    read = yaml.safe_load(f"a: {flow(value)}")["a"]
    assert read == value
    assert type(read) is type(value)


def test_planning_again_without_changes_touches_nothing(tmp_path: Path) -> None:
    files = emit(_plan(), tmp_path).files
    before = {path: path.stat().st_mtime_ns for path in files}
    assert {path.name for path in files} == {"_dataset.yaml", "2d.yaml", "3d_fullres.yaml"}
    assert emit(_plan(), tmp_path) == Emission(files, (), ())
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_unedited_files_are_replaced_by_a_new_plan(tmp_path: Path) -> None:
    emit(_plan(), tmp_path)
    emit(_plan(gpu_memory_gb=4.0), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2d.yaml", "3d_fullres.yaml", "_dataset.yaml"]
    assert "the 4 GB budget" in (tmp_path / "3d_fullres.yaml").read_text(encoding="utf-8")


def test_edited_file_stays_and_a_new_plan_is_written_beside_it(tmp_path: Path) -> None:
    emit(_plan(), tmp_path)
    path = tmp_path / "3d_fullres.yaml"
    edited = path.read_text(encoding="utf-8").replace("batch_size: 2 ", "batch_size: 3 ")
    assert not is_edited(path.read_text(encoding="utf-8"))
    assert is_edited(edited)
    path.write_text(edited, encoding="utf-8")
    same = emit(_plan(), tmp_path)
    assert same.files[-1] == path, "the plan on which the edit was made is not new"
    assert (same.kept, same.edited) == ((), (path,))
    emission = emit(_plan(gpu_memory_gb=4.0), tmp_path)
    assert path.read_text(encoding="utf-8") == edited
    new = tmp_path / "3d_fullres.new.yaml"
    assert emission.files[-1] == new
    assert "the 4 GB budget" in new.read_text(encoding="utf-8")
    [kept] = emission.kept
    assert (kept.path, kept.new) == (path, new)
    assert any(line.startswith("-  batch_size: 3 ") for line in kept.difference)
    assert any(line.startswith("+  batch_size: 2 ") for line in kept.difference)
    assert not any("normalization" in line or "transpose" in line for line in kept.difference), "comments do not count"


def test_new_file_goes_when_its_question_is_settled(tmp_path: Path) -> None:
    emit(_plan(), tmp_path)
    path, new = tmp_path / "3d_fullres.yaml", tmp_path / "3d_fullres.new.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("batch_size: 2 ", "batch_size: 3 "), encoding="utf-8")
    emit(_plan(gpu_memory_gb=4.0), tmp_path)
    mark = next(line for line in new.read_text(encoding="utf-8").splitlines() if line.startswith("# content "))
    old = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# content "))
    path.write_text(path.read_text(encoding="utf-8").replace(old, mark), encoding="utf-8")
    emission = emit(_plan(gpu_memory_gb=4.0), tmp_path)
    assert (emission.removed, emission.kept) == ((new,), ())
    assert not new.exists()
    assert "batch_size: 3 " in path.read_text(encoding="utf-8")


def test_configuration_that_is_not_planned_any_more_goes_unless_somebody_edited_it(tmp_path: Path) -> None:
    emit(_plan("Liver"), tmp_path)
    path, cascade = tmp_path / "3d_lowres.yaml", tmp_path / "3d_cascade_fullres.yaml"
    cascade.write_text(cascade.read_text(encoding="utf-8") + "seed: 3\n", encoding="utf-8")
    assert emitted_configurations(tmp_path) == ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"]
    emission = emit(_plan("Liver", gpu_memory_gb=400.0), tmp_path)
    assert emission.removed == (path,)
    assert emission.kept == (Kept(cascade, None),)
    assert not path.exists()
    assert cascade.exists()


def test_other_settings_than_the_presets_are_recorded() -> None:
    text = dataset_yaml(_plan(planner="resenc_m", gpu_memory_gb=4.0, target_spacing=(1.0, 1.0, 2.0)))
    assert yaml.safe_load(text)["plan"]["planner_settings"] == {
        "gpu_memory_gb": 4.0,
        "target_spacing": [1.0, 1.0, 2.0],
    }


def test_file_that_a_person_wrote_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "2d.yaml"
    path.write_bytes(b"mine: \xff\n")
    emit(_plan(), tmp_path)
    assert path.read_bytes() == b"mine: \xff\n"
    assert (tmp_path / "2d.new.yaml").exists()


def test_labels_with_odd_names_and_ignore_are_written(tmp_path: Path) -> None:
    labels = {"background": 0, "left: kidney": 1, "no": 2, "ignore": 3}
    fingerprint, _ = fixture_inputs("Edge_few_cases")
    description = description_of(
        {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": 2, "file_ending": ".mha"}
    )
    plan = plan_dataset(fingerprint, description, PRESETS["default"])
    config = _compose(tmp_path, plan, "2d")
    assert config.plan.labels == labels
    assert (config.plan.ignore_label, config.plan.num_classes) == (3, 3)
