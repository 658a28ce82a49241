"""What is handed to SLURM, run with stand-ins for its commands; tests/end_to_end/test_slurm.py has a real one."""

import os
import subprocess
from pathlib import Path

import pytest

from segplan.errors import RunError
from segplan.jobs.cluster import Command, Resources, job_of, script, submit, wait

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SLURM runs on Linux")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder first on the path, for stand-ins of SLURM's commands; `srun` runs what follows it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    stand_in(folder, "srun", 'exec "$@"')
    return folder


def stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def options_of(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return dict(line.partition("=")[::2] for line in lines)


def test_nothing_is_asked_for_that_is_not_set(tmp_path):
    options = options_of(script([Command(["true"], tmp_path / "a.log")], "D/3d/fold_0", Resources()))
    assert set(options) == {
        "job-name", "output", "open-mode", "requeue", "signal", "nodes", "ntasks-per-node"
    }  # fmt: skip
    assert options["job-name"] == "D/3d/fold_0"
    assert options["signal"] == "USR1@120"


def test_resources_and_any_other_option_reach_sbatch(tmp_path):
    more = {"qos": "low", "exclusive": True, "mail_type": "END"}
    resources = Resources(partition="gpu", timeout_min=90, gpus_per_node=2, mem_gb=1.5, additional_parameters=more)
    options = options_of(script([Command(["true"], tmp_path / "a.log")], "x", resources, after=["3", "4_1"]))
    expected = {
        "partition": "gpu",
        "time": "90",
        "gpus-per-node": "2",
        "mem": "1536M",
        "qos": "low",
        "exclusive": "",
        "mail-type": "END",
        "dependency": "afterok:3:4_1",
        "kill-on-invalid-dep": "yes",
    }
    assert options.items() >= expected.items()


def test_a_job_leaves_its_exit_code_beside_its_log(tmp_path, commands):
    one = Command(["bash", "-c", "echo 'said it'; exit 3"], tmp_path / "a log.log")
    path = tmp_path / "job"
    path.write_text(script([one], "x", Resources(), environment={"A": "b c"}))
    done = subprocess.run(["bash", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, one.code_file.read_text()) == (3, "said it\n", "3\n")


def test_a_training_that_saved_before_its_limit_is_put_back_into_the_queue(tmp_path, commands):
    stand_in(commands, "scontrol", f'echo "$@" > {tmp_path}/asked; kill $PPID; sleep 5')
    one = Command(["bash", "-c", "exit 138"], tmp_path / "a.log")
    path = tmp_path / "job"
    path.write_text(script([one], "x", Resources()))
    subprocess.run(["bash", str(path)], env=os.environ | {"SLURM_JOB_ID": "17"}, check=False)
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert not one.code_file.exists()  # the job has not ended


def test_an_array_runs_each_command_into_its_own_log(tmp_path, commands):
    several = [Command(["echo", f"shard {number}"], tmp_path / f"{number}.log") for number in range(3)]
    path = tmp_path / "job"
    text = script(several, "x", Resources(array_parallelism=2))
    path.write_text(text)
    assert options_of(text)["array"] == "0-2%2"
    subprocess.run(["bash", str(path)], env=os.environ | {"SLURM_ARRAY_TASK_ID": "2"}, check=True)
    assert several[2].log.read_text() == "shard 2\n"
    assert not several[0].log.exists()


def test_submitting_returns_the_ids_and_a_refusal_says_why(tmp_path, commands):
    stand_in(commands, "sbatch", "echo '41;cluster'")
    one, two = (Command(["true"], tmp_path / f"{name}.log") for name in "ab")
    assert submit([one], "x", Resources()) == ["41"]
    assert submit([one, two], "x", Resources()) == ["41_0", "41_1"]
    stand_in(commands, "sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(RunError, match="invalid partition specified: gpu"):
        submit([one], "x", Resources())


def test_without_slurm_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="no sbatch on this machine"):
        submit([Command(["true"], tmp_path / "a.log")], "x", Resources())


def test_waiting_reads_the_codes_and_a_job_that_left_none_has_failed(tmp_path, commands):
    one, two, three = (Command(["true"], tmp_path / f"{name}.log") for name in "abc")
    one.code_file.write_text("0\n")
    three.code_file.write_text("2\n")
    # The first time two jobs are there, then SLURM has forgotten one and knows how the other ended.
    body = (
        f"if mkdir {tmp_path}/asked 2>/dev/null; then echo '5_0 RUNNING'; echo '6 PENDING'; else echo '6 CANCELLED'; fi"
    )
    stand_in(commands, "squeue", body)
    assert wait({"5_0": one, "6": two, "5_1": three}, poll_s=0.01) == {"5_0": 0, "6": 1, "5_1": 2}


def test_a_command_whose_job_is_in_the_queue_is_known_by_it(tmp_path, commands):
    one = Command(["true"], tmp_path / "a.log")
    stand_in(commands, "sbatch", "echo 41")
    stand_in(commands, "squeue", "echo '41 PENDING'")
    assert job_of(one) is None
    submit([one], "x", Resources())
    assert job_of(one) == "41"
    one.code_file.write_text("0\n")
    assert job_of(one) is None
    submit([one], "x", Resources())
    stand_in(commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert job_of(one) is None
