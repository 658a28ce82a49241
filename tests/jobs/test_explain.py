"""`segplan explain` and `segplan compare-plans` as a user runs them, from the files of the workspace alone."""

import shutil

import pytest
from small_dataset import make_dataset

from segplan.cli import main as segplan
from segplan.entry import main

DATASET = "Dataset001_Boxes"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("explain")
    raw = make_dataset(root / DATASET, cases=5, shape=(30, 34, 38))
    words = [f"dataset={raw}", f"workspace={root / 'w'}", "num_workers=0", "stages=[plan]"]
    assert main("plan", [*words, "planner.gpu_memory_gb=0.05"]) == 0
    assert main("plan", [*words, "planner=resenc_m"]) == 0
    shutil.rmtree(raw)
    shutil.rmtree(root / "w" / "fingerprints")
    return root / "w"


def test_the_steps_to_the_patch_and_the_limits_of_the_batch_are_printed(workspace, capsys):
    assert segplan(["explain", f"plan={DATASET}/3d_fullres", f"workspace={workspace}"]) == 0
    printed = capsys.readouterr().out
    assert "planner default, planner.gpu_memory_gb=0.05, fingerprint " in printed
    assert "32×40×40  12.1 M  too much  start:" in printed or "too much  start:" in printed
    assert "fits" in printed
    assert "shortened: it was the longest" in printed
    assert "limits: memory " in printed
    assert "3d_lowres " in printed
    assert "The plan in use has these values." in printed


def test_what_the_file_on_top_changes_is_named(workspace, capsys):
    path = workspace / "plan" / DATASET / "mine.yaml"
    path.write_text(
        f"# @package _global_\ndefaults:\n  - /plan/{DATASET}/resenc_m/3d_fullres\n  - _self_\n"
        "data:\n  batch_size: 1  # my card is small\n"
    )
    assert segplan(["explain", f"plan={DATASET}/mine", f"workspace={workspace}"]) == 0
    printed = capsys.readouterr().out
    assert "planner resenc_m" in printed
    assert "data.batch_size  1  by the rules " in printed
    assert segplan(["compare-plans", f"{DATASET}/resenc_m/3d_fullres", str(path), f"workspace={workspace}"]) == 0
    printed = capsys.readouterr().out
    assert "1 value differs" in printed
    assert "B  1 " in printed
    assert "my card is small" in printed
    path.unlink()


def test_two_planners_differ_and_a_plan_equals_itself(workspace, capsys):
    words = ["compare-plans", f"{DATASET}/3d_fullres", f"{DATASET}/resenc_m/3d_fullres", f"workspace={workspace}"]
    assert segplan(words) == 0
    printed = capsys.readouterr().out
    assert "network.blocks_per_stage\n  A  absent\n  B  [1, 3, 4" in printed
    assert "the 0.05 GB budget" in printed
    assert segplan([words[0], words[1], words[1], words[3]]) == 0
    assert "are equal" in capsys.readouterr().out


def test_a_file_outside_any_workspace_is_compared_as_it_is(workspace, tmp_path, capsys):
    for name in ("2d", "_dataset"):
        shutil.copy(workspace / "plan" / DATASET / f"{name}.yaml", tmp_path)
    assert segplan(["compare-plans", str(tmp_path / "2d.yaml"), str(tmp_path / "2d.yaml")]) == 0
    assert "are equal" in capsys.readouterr().out


def test_the_plan_that_says_why_another_is_missing_is_of_the_same_planner(workspace, capsys):
    words = ["explain", f"plan={DATASET}/nothing/3d_lowres", f"workspace={workspace}"]
    assert segplan(words) == 2
    assert "says why" not in capsys.readouterr().err
    shutil.copytree(workspace / "plan" / DATASET, workspace / "plan" / DATASET / "nothing")
    assert segplan(words) == 2
    shutil.rmtree(workspace / "plan" / DATASET / "nothing")
    assert f"segplan explain plan={DATASET}/nothing/2d says why there is no 3d_lowres" in capsys.readouterr().err


def test_a_damaged_dataset_json_beside_the_plan_is_named(workspace, capsys):
    path = workspace / "plan" / DATASET / "dataset.json"
    text = path.read_text()
    path.write_text("{")
    assert segplan(["explain", f"plan={DATASET}/3d_fullres", f"workspace={workspace}"]) == 2
    path.write_text(text)
    assert f"{path}: cannot be read as JSON" in capsys.readouterr().err


def test_a_plan_that_is_not_there_or_of_another_schema_is_refused(workspace, capsys):
    assert segplan(["explain", f"plan={DATASET}/3d_lowres", f"workspace={workspace}"]) == 2
    assert "Planned: 2d, 3d_fullres" in capsys.readouterr().err
    shared = workspace / "plan" / DATASET / "_dataset.yaml"
    text = shared.read_text()
    shared.write_text(text.replace("schema_version: 1 ", "schema_version: 7 "))
    assert segplan(["explain", f"plan={DATASET}/3d_fullres", f"workspace={workspace}"]) == 2
    shared.write_text(text)
    assert "schema version 7, this segplan reads 1" in capsys.readouterr().err
