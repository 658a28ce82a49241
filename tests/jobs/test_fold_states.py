"""How far folds are, told from what their folders hold, and what `segplan jobs` says to launch."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from report_workspace import DATASET, plan_files, validated_fold
from tiny_run import make_run

from segplan.errors import ConfigError, RunError
from segplan.jobs.fold_record import RECORD_FILE, read_attempt, recorded, this_process
from segplan.jobs.fold_states import fold_state, fold_states
from segplan.jobs.jobs_table import next_commands
from segplan.jobs.jobs_table import run as print_jobs
from segplan.jobs.run_overrides import overrides_between

PLAN = f"{DATASET}/3d_fullres"


def state(workspace, fold="0"):
    return fold_state(workspace, PLAN, "default", fold)


def write_attempt(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    known = {"machine": this_process().machine, "process": 1, "born": 0}
    (folder / RECORD_FILE).write_text(json.dumps(known | values))


@pytest.fixture
def folder(tmp_path):
    make_run(tmp_path)
    plan_files(tmp_path, "3d_fullres")
    return tmp_path / "runs" / PLAN / "default" / "fold_0"


def test_a_validated_fold_is_done_and_needs_nothing(tmp_path):
    validated_fold(tmp_path, 0, shift=0)
    found = state(tmp_path)
    assert (found.status, found.epoch, found.max_epochs, found.dice, found.command) == ("done", 3, 3, 1.0, ())


def test_a_fold_without_folder_is_missing_and_its_command_trains_it(tmp_path, folder):
    found = state(tmp_path, "1")
    assert found.status == "missing"
    assert found.command_line == f"segplan train plan={PLAN} fold=1 workspace={tmp_path}"


@pytest.mark.skipif(os.name == "nt", reason="SLURM runs on Linux")
def test_a_fold_in_slurms_queue_is_not_launched_again(tmp_path, folder, monkeypatch):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 17 PENDING\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    log = tmp_path / "logs" / PLAN / "default" / "fold_0.log"
    log.parent.mkdir(parents=True)
    log.with_name("fold_0.log.job").write_text("17\n")
    found = state(tmp_path)
    assert (found.status, found.detail, found.command) == ("running", "in the queue: SLURM job 17", ())
    log.with_name("fold_0.log.code").write_text("1\n")  # the job has ended
    assert state(tmp_path).status == "missing"


def test_what_runs_is_running_until_it_ends(tmp_path, folder):
    with recorded(folder) as attempt:
        assert state(tmp_path).status == "running"
        assert str(os.getpid()) in state(tmp_path).detail
        attempt.ends_with(143)
    assert (state(tmp_path).status, state(tmp_path).detail) == ("stopped", "by SIGTERM, after saving")


def test_an_error_is_kept_with_its_words(tmp_path, folder):
    with pytest.raises(ConfigError), recorded(folder):
        raise ConfigError("is too large", "data.batch_size", "Make it smaller.")
    assert (state(tmp_path).status, state(tmp_path).detail) == (
        "failed",
        "data.batch_size: is too large. Make it smaller.",
    )
    assert state(tmp_path).command[-1] == str(folder / "config.yaml")


def test_a_process_that_was_killed_is_told_from_one_that_runs(tmp_path, folder):
    code = (
        "import time; from pathlib import Path; from segplan.jobs.fold_record import recorded\n"
        f"with recorded(Path({str(folder)!r})):\n    print('on', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "on\n"
    assert state(tmp_path).status == "running"
    with pytest.raises(RunError, match="trains this fold right now"), recorded(folder):
        pass
    child.kill()
    child.wait()
    assert state(tmp_path).status == "failed"
    assert "killed" in state(tmp_path).detail


def test_another_process_with_the_same_number_is_not_taken_for_it(tmp_path, folder):
    write_attempt(folder, process=os.getpid(), born=1)
    assert state(tmp_path).status == "failed"


def test_a_training_elsewhere_is_believed_as_long_as_it_gives_signs(tmp_path, folder):
    write_attempt(folder, machine="node7 pid:[4]", slurm_job="42")
    assert state(tmp_path).status == "running"
    assert "node7" in state(tmp_path).detail
    assert "SLURM job 42" in state(tmp_path).detail
    before = time.time() - 3600
    os.utime(folder / RECORD_FILE, (before, before))
    assert state(tmp_path).status == "failed"
    assert "last sign 60 min ago" in state(tmp_path).detail


def test_a_record_cut_short_counts_as_none(tmp_path, folder):
    folder.joinpath(RECORD_FILE).write_text('{"mach')
    assert read_attempt(folder) is None
    assert state(tmp_path).status == "missing"


def test_a_configuration_without_runs_and_one_without_plan_are_both_listed(tmp_path, folder):
    plan_files(tmp_path, "2d")
    (tmp_path / "plan" / PLAN).with_suffix(".yaml").unlink()
    found = {(each.plan, each.fold, each.status) for each in fold_states(tmp_path, DATASET)}
    assert found == {
        (f"{DATASET}/2d", "0", "missing"),
        (f"{DATASET}/2d", "1", "missing"),
        (PLAN, "0", "missing"),
        (PLAN, "1", "missing"),
    }


def test_what_cannot_be_trained_is_not_offered(tmp_path, folder):
    path = tmp_path / "plan" / DATASET / "2d.yaml"
    path.write_text("plan: {runnable: false, not_runnable_because: no kernel fits}\n")
    two_d = [each for each in fold_states(tmp_path, DATASET) if each.plan.endswith("2d")]
    assert {(each.status, each.detail, each.command) for each in two_d} == {("impossible", "no kernel fits", ())}


def test_folds_that_never_began_are_one_command_with_the_overrides_of_their_run(tmp_path, folder):
    shutil.copytree(folder, folder.parent / "fold_9")
    states = fold_states(tmp_path, DATASET)
    import yaml

    planned = yaml.safe_load((folder / "config.yaml").read_text())
    planned["trainer"]["max_epochs"] = 1000
    commands = next_commands(states, tmp_path, lambda plan: planned)
    assert f"segplan train plan={PLAN} fold=1 workspace={tmp_path} trainer.max_epochs=3" in commands


def test_jobs_prints_every_fold_and_what_is_next(tmp_path, capsys):
    validated_fold(tmp_path, 0, shift=0)
    validated_fold(tmp_path, 1, shift=0)
    plan_files(tmp_path, "3d_fullres")
    assert print_jobs(tmp_path, DATASET, lambda plan: {}) == 0
    out = capsys.readouterr().out
    assert "2 done" in out
    assert f"Next: segplan select {DATASET} workspace={tmp_path}" in out
    assert print_jobs(tmp_path, DATASET, lambda plan: {}, as_json=True) == 0
    assert [each["status"] for each in json.loads(capsys.readouterr().out)] == ["done", "done"]


def test_an_unknown_dataset_is_refused_with_those_there_are(tmp_path, folder):
    with pytest.raises(RunError, match=DATASET):
        print_jobs(tmp_path, "Dataset998_None", lambda plan: {})


def test_overrides_between_two_configurations_are_hydra_words():
    base = {"fold": 0, "trainer": {"max_epochs": 1000, "precision": "auto"}, "network": {"features": [32, 64]}}
    present = {
        "fold": 3,
        "trainer": {"max_epochs": 5, "precision": "32"},
        "network": {"features": [4, 8]},
        "callbacks": {"device": {"_target_": "a.B", "on": True}},
    }
    assert overrides_between(base, present) == [
        '+callbacks={device:{_target_:"a.B",on:true}}',
        "network.features=[4,8]",
        "trainer.max_epochs=5",
        'trainer.precision="32"',
    ]
