"""Composing a training from the shipped groups and an emitted plan, and refusing what cannot work."""

import pytest
import yaml
from omegaconf import OmegaConf
from small_dataset import make_dataset

from segplan.entry import main
from segplan.entry.compose import compose_job
from segplan.entry.locations import configs_folder, planned
from segplan.errors import ConfigError, PlanError


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with a planned dataset whose name has odd characters."""
    root = tmp_path_factory.mktemp("compose")
    raw = make_dataset(root / "Dataset003_a b,c=d (ü 数)", cases=5)
    assert (
        main("plan", [f"dataset={raw}", f"workspace={root / 'w'}", "num_workers=0", "stages=[fingerprint,plan]"]) == 0
    )
    return root / "w"


NAME = "Dataset003_a b,c=d (ü 数)/3d_fullres"
CHOICE = f"plan='{NAME}'"


def test_a_plan_sets_the_values_of_the_groups(workspace):
    config = compose_job("train", [CHOICE], workspace)
    emitted = OmegaConf.load(workspace / "plan" / f"{NAME}.yaml")
    assert config.data.patch_size == emitted.data.patch_size
    assert config.network.strides == emitted.network.strides
    assert config.network.num_classes == config.plan.num_classes == 3
    assert (config.dataset, config.configuration, config.plan_name) == (*NAME.split("/"), None)


def test_overrides_win_over_the_plan(workspace):
    config = compose_job("train", [CHOICE, "data.batch_size=7", "optimizer.lr=0.1", "fold=all"], workspace)
    assert (config.data.batch_size, config.optimizer.lr, config.fold) == (7, 0.1, "all")


def test_a_users_own_file_builds_on_an_emitted_plan(workspace):
    folder = workspace / "plan" / NAME.split("/")[0]
    text = f'# @package _global_\ndefaults:\n  - "/plan/{NAME}"\n  - _self_\ndata:\n  batch_size: 3\n'
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    config = compose_job("train", [f"plan='{NAME.split('/')[0]}/mine'"], workspace)
    assert (config.data.batch_size, config.configuration) == (3, "mine")
    (folder / "mine.yaml").unlink()


def test_broken_files_of_the_user_are_refused_in_one_line(workspace):
    folder = workspace / "plan" / NAME.split("/")[0]
    for text in ("a: [1", "# @package _global_\ndefaults:\n  - /plan/none/3d\n  - _self_\n", "data: {batch_size: 3}\n"):
        (folder / "broken.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as raised:
            compose_job("train", [f"plan='{NAME.split('/')[0]}/broken'"], workspace)
        assert "\n" not in str(raised.value)
    (folder / "broken.yaml").unlink()


def test_the_resolved_config_has_no_interpolation_left(workspace):
    config = compose_job("train", [CHOICE], workspace)
    assert "${" not in OmegaConf.to_yaml(config)
    yaml.safe_load(OmegaConf.to_yaml(config))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tariner.max_epochs=3", "Did you mean trainer.max_epochs?"),
        ("trainer.max_epoch=3", "Did you mean trainer.max_epochs?"),
        ("optimizer.learning_rate=3", "unknown key optimizer.learning_rate"),
        ("data.batch_size=two", "must be a whole number"),
        ("data.batch_size=1.5", "must be a whole number"),
        ("optimizer.lr=fast", "must be a number"),
        ("module.deep_supervision=3", "must be true or false"),
        ("data.patch_size=3", "must be a list"),
        ("augmentation=nothing", "There are: default, "),
        ("trainer.max_epochs", "cannot read the override"),
    ],
)
def test_an_override_that_cannot_work_is_refused(workspace, override, expected):
    with pytest.raises(ConfigError) as raised:
        compose_job("train", [CHOICE, override], workspace)
    assert expected in str(raised.value)


def test_all_misspelt_keys_are_named_at_once(workspace):
    with pytest.raises(ConfigError) as raised:
        compose_job("train", [CHOICE, "sed=1", "fald=2"], workspace)
    assert "seed" in str(raised.value)
    assert "fold" in str(raised.value)


def test_a_missing_plan_names_those_that_exist(workspace):
    with pytest.raises(PlanError, match="3d_fullres"):
        compose_job("train", [f"plan='{NAME.replace('3d_fullres', '3d_lowres')}'"], workspace)
    with pytest.raises(PlanError, match="nothing is planned"):
        compose_job("train", ["plan=D/2d"], workspace / "elsewhere")


def test_train_without_a_plan_lists_the_plans(workspace, capsys):
    assert main("train", [f"workspace={workspace}"]) == 2
    assert NAME in capsys.readouterr().err


def test_help_lists_groups_and_plans_without_composing(workspace, capsys):
    assert main("train", ["--help", f"workspace={workspace}"]) == 0
    printed = capsys.readouterr().out
    assert "augmentation=default|" in printed
    assert f"plan={NAME}" in printed


def test_help_lists_the_keys_inside_a_node(workspace, capsys):
    assert main("plan", ["--help"]) == 0
    printed = capsys.readouterr().out
    assert "    group_by: null " in printed
    assert "subdir" not in printed


def test_planned_leaves_out_shared_and_new_files(workspace):
    folder = workspace / "plan" / NAME.split("/")[0]
    (folder / "2d.new.yaml").write_text("{}")
    assert planned(workspace) == sorted([NAME.replace("3d_fullres", "2d"), NAME])
    (folder / "2d.new.yaml").unlink()


def test_every_shipped_option_composes(workspace):
    folder = configs_folder()
    groups = [path for path in folder.iterdir() if path.is_dir() and path.name != "planner"]
    assert len(groups) >= 12
    for group in groups:
        for option in group.glob("*.yaml"):
            config = compose_job("train", [CHOICE, f"{group.name}={option.stem}"], workspace)
            assert group.name in config or group.name == "experiment"  # whose values stand in the other nodes
    for option in (folder / "planner").glob("*.yaml"):
        assert compose_job("plan", [f"planner={option.stem}"], workspace).planner.name == option.stem


def test_planner_groups_equal_the_presets(workspace):
    from dataclasses import asdict

    from segplan.planning import PRESETS

    for name, preset in PRESETS.items():
        composed = OmegaConf.to_container(compose_job("plan", [f"planner={name}"], workspace).planner)
        assert composed == {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(preset).items()
        }


@pytest.mark.parametrize("words", [["--cfg", "job"], ["--cfg=job"], ["-c", "job"]])
def test_the_composed_configuration_is_printed(workspace, capsys, words):
    assert main("train", [f"plan={NAME}", f"workspace={workspace}", *words]) == 0
    assert OmegaConf.create(capsys.readouterr().out).configuration == "3d_fullres"


@pytest.mark.parametrize("words", [["--cfg", "foo"], ["--cfg=hydra"], ["--cfg"]])
def test_other_parts_of_the_configuration_cannot_be_printed(workspace, capsys, words):
    assert main("train", [f"plan={NAME}", f"workspace={workspace}", *words]) == 2
    assert "--cfg job prints" in capsys.readouterr().err


def test_plans_of_another_workspace_that_was_used_before_are_not_found(workspace, tmp_path):
    compose_job("train", [CHOICE], workspace)
    (tmp_path / "plan" / "D").mkdir(parents=True)
    text = f'# @package _global_\ndefaults:\n  - "/plan/{NAME}"\n  - _self_\n'
    (tmp_path / "plan" / "D" / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="Could not load"):
        compose_job("train", ["plan=D/mine"], tmp_path)


def test_two_experiments_are_a_list(workspace, capsys):
    both = compose_job("train", [CHOICE, "experiment=[quick_look,low_memory]"], workspace)
    assert (both.run, both.trainer.max_epochs, both.network.activation_checkpointing) == ("quick_look", 200, True)
    with pytest.raises(ConfigError, match=r"experiment=\[A,B\]"):
        compose_job("train", [CHOICE, "experiment=quick_look", "experiment=low_memory"], workspace)
    with pytest.raises(ConfigError, match=r"no experiment=low_memry\. Did you mean low_memory"):
        compose_job("train", [CHOICE, "experiment=[quick_look,low_memry]"], workspace)
