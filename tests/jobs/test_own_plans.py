"""A file of the user's own on top of a plan: its own data where it needs other data, and how mistakes are named."""

import pytest
from omegaconf import OmegaConf
from small_dataset import make_dataset

from segplan.entry import main
from segplan.entry.compose import compose_job, compose_training
from segplan.errors import ConfigError, PlanError, StoreError
from segplan.jobs.plan_node import store_folder
from segplan.jobs.prepare import prepare_run
from segplan.preprocessing import CaseStore

DATASET = "Dataset001_Boxes"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    raw = make_dataset(root / DATASET, cases=5)
    assert main("plan", [f"dataset={raw}", f"workspace={root / 'w'}", "num_workers=0"]) == 0
    return root / "w"


def write(workspace, name, text):
    path = workspace / "plan" / DATASET / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def own(values: str, base: str = f"/plan/{DATASET}/3d_fullres") -> str:
    return f"# @package _global_\ndefaults:\n  - {base}\n  - _self_\n{values}"


def store_of(workspace, name):
    return CaseStore(store_folder(workspace, compose_training(f"{DATASET}/{name}", workspace)["plan"]))


def preprocess(workspace, name):
    words = [f"dataset={DATASET}", "stages=[preprocess]", f"configurations=[{name}]", "num_workers=0"]
    return main("plan", [*words, f"workspace={workspace}"])


def test_a_file_that_leaves_preprocessing_alone_shares_the_data(workspace):
    write(workspace, "small", own("data: {batch_size: 1}\noptimizer: {lr: 0.5}\n"))
    assert store_of(workspace, "small").folder == store_of(workspace, "3d_fullres").folder
    config = compose_job("train", [f"plan={DATASET}/small", "data.batch_size=4"], workspace)
    assert (config.data.batch_size, config.optimizer.lr) == (4, 0.5)
    assert prepare_run(config).parts[-4:-1] == ("small", "default", "fold_0")


def test_a_file_that_changes_preprocessing_gets_a_folder_of_its_own_and_is_told_how(workspace, capsys):
    write(workspace, "coarse", own("plan: {spacing: [2.0, 2.0, 2.0]}\n"))
    before = store_of(workspace, "3d_fullres")
    assert store_of(workspace, "coarse").folder != before.folder
    config = compose_job("train", [f"plan={DATASET}/coarse", "data.patch_size=[8,8,8]"], workspace)
    with pytest.raises(StoreError, match=r"configurations=\[coarse\]") as raised:
        prepare_run(config)
    assert f"dataset={DATASET} 'stages=[preprocess]'" in raised.value.remedy
    assert preprocess(workspace, "coarse") == 0
    assert "Next: python train.py plan=Dataset001_Boxes/coarse" in capsys.readouterr().out
    store = store_of(workspace, "coarse")
    assert store.identifiers() == before.identifiers()
    assert store.open("case_00").image.shape[1:] == (7, 8, 9)
    assert before.open("case_00").image.shape[1:] == (14, 16, 18)
    assert prepare_run(config).is_file()


def test_other_labels_have_other_data(workspace):
    write(workspace, "merged", own("plan: {labels: {both: [1, 2]}, regions_class_order: [1, 2, 1], num_classes: 3}\n"))
    assert store_of(workspace, "merged").folder != store_of(workspace, "3d_fullres").folder


def test_a_file_may_build_on_another_own_file(workspace):
    write(workspace, "small", own("data: {batch_size: 1}\n"))
    write(workspace, "smaller", own("optimizer: {lr: 0.5}\n", base=f"/plan/{DATASET}/small"))
    config = compose_job("train", [f"plan={DATASET}/smaller"], workspace)
    assert (config.data.batch_size, config.optimizer.lr) == (1, 0.5)


def test_files_that_build_on_each_other_are_refused(workspace):
    paths = [
        write(workspace, *pair) for pair in (("a", own("", f"/plan/{DATASET}/b")), ("b", own("", f"/plan/{DATASET}/a")))
    ]
    with pytest.raises(ConfigError, match=f"{DATASET}/a on {DATASET}/b on {DATASET}/a"):
        compose_training(f"{DATASET}/a", workspace)
    for path in paths:
        path.unlink()


def test_preprocessing_refuses_a_name_that_is_no_configuration(workspace, capsys):
    assert preprocess(workspace, "3d_ful") == 2
    assert "there is no configuration 3d_ful" in capsys.readouterr().err


def test_values_on_the_command_line_that_preprocessing_cannot_see_are_named(workspace, capsys):
    assert main("train", [f"plan={DATASET}/3d_fullres", "plan.spacing=[3,1,1]", f"workspace={workspace}"]) == 2
    assert "write it into a file of your own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (own("data: {batch_size: 1}\n", base="3d_fullres"), f'Write "  - /plan/{DATASET}/3d_fullres"'),
        (own("data: {batch_size: 1}\n", base=f"plan/{DATASET}/3d_fullres"), f'Write "  - /plan/{DATASET}/3d_fullres"'),
        (own("data: {batch_size: 1}\n").replace("# @package _global_\n", ""), 'Make "# @package _global_"'),
        (own("data: {batch_size: 1}\n").replace("  - _self_\n", ""), 'Write "  - _self_" after'),
        (own("data: {batch_sise: 1}\n"), "Did you mean data.batch_size?"),
        (own("data: {patch_size: 5}\n"), "data.patch_size=5 must be a list"),
        (own("data: {batch_size: four}\n"), "data.batch_size=four must be a whole number"),
        ("# @package _global_\ndata: {batch_size: 1}\n", "it builds on no plan"),
        ("# @package _global_\n", "it builds on no plan"),
        ("", 'Make "# @package _global_"'),
        ("# @package _global_\ndefaults: 3d_fullres\n", "its defaults are no list"),
        (own("", base=f"/plan/{DATASET}/broken"), "it builds on itself"),
    ],
)
def test_a_file_whose_values_would_not_count_is_refused_with_the_line_that_works(workspace, text, expected):
    path = write(workspace, "broken", text)
    with pytest.raises(ConfigError) as raised:
        compose_job("train", [f"plan={DATASET}/broken"], workspace)
    path.unlink()
    assert expected in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_key_that_the_base_does_not_have_is_an_addition(workspace):
    write(workspace, "more", own("trainer: {max_time: '00:01:00:00'}\n"))
    assert compose_job("train", [f"plan={DATASET}/more"], workspace).trainer.max_time == "00:01:00:00"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("schema_version", 99, "schema version 99"), ("fingerprint", "0" * 16, "was planned from the fingerprint")],
)
def test_training_refuses_a_plan_of_another_version_or_of_files_that_do_not_belong_together(
    workspace, key, value, expected
):
    config = compose_job("train", [f"plan={DATASET}/3d_fullres"], workspace)
    OmegaConf.update(config, f"plan.{key}", value)
    with pytest.raises(PlanError, match=expected):
        prepare_run(config)
