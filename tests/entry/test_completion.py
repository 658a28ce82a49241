"""Completion of a command line, by itself and through bash."""

import shutil
import subprocess

import pytest

from segplan.entry.completion import SHELLS, candidates, script


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    for name in ("A/2d", "A/3d_fullres", "A/big/2d", "B c/2d", "A/_dataset", "A/2d.new"):
        path = tmp_path / "w" / "plan" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setenv("SEGPLAN_WORKSPACE", str(tmp_path / "w"))
    return tmp_path / "w"


PLANS = ["A/2d", "A/3d_fullres", "A/big/2d", "B c/2d"]


@pytest.mark.parametrize("command", ["python train.py", "./train.py", "segplan train", "/opt/python3.11 /x/predict.py"])
def test_plans_of_the_workspace_are_listed(workspace, command):
    assert candidates(f"{command} plan=") == [f"plan={name}" for name in PLANS]
    assert candidates(f"{command} fold=0 plan=A/b") == ["plan=A/big/2d"]
    assert candidates(f"{command} pla") == ["plan="]


def test_the_workspace_on_the_line_comes_first(workspace, tmp_path):
    assert candidates(f"segplan train workspace={tmp_path / 'other'} plan=") == []
    assert len(candidates(f"segplan train 'workspace={workspace}' plan=")) == len(PLANS)


def test_a_sweep_is_completed_after_its_last_comma(workspace):
    assert candidates("segplan train -m plan=A/2d,A/3") == ["plan=A/2d,A/3d_fullres"]


def test_groups_have_their_options_and_jobs_their_names(workspace):
    assert "planner=resenc_l" in candidates("python plan.py planner=")
    assert candidates("segplan train network=plain") == ["network=plain_unet"]
    assert candidates("segplan tr") == ["train"]
    assert "verify" in candidates("segplan ")
    assert candidates("segplan explain plan=A/2") == ["plan=A/2d"]
    assert candidates("segplan compare-plans A/2d A/3") == ["A/3d_fullres"]


@pytest.mark.parametrize(
    "line", ["", "ls plan=", "python other.py plan=", "python -m segplan plan=", "segplan verify "]
)
def test_what_is_not_ours_is_left_to_the_shell(workspace, line):
    assert candidates(line) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python train.py plan=A/", ["A/2d", "A/3d_fullres", "A/big/2d"]),  # bash has split the word at the =
        ("segplan predict plan=B", ["B\\ c/2d"]),
        ("segplan expl", ["explain"]),
        ("ls pla", []),
    ],
)
def test_bash_gets_what_follows_the_equals_sign(workspace, line, expected):
    shell = (
        f'{script("bash")}\ncompopt() {{ :; }}\nCOMP_LINE="$1"\nCOMP_POINT=${{#COMP_LINE}}\n_segplan_complete\n'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", shell, "bash", line], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == (expected or [""])


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
def test_each_shells_script_is_valid_where_the_shell_is_installed(shell):
    text = script(shell)
    assert "@COMMAND@" not in text
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([program, "-n", "/dev/stdin"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
