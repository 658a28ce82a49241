"""Chains of jobs that wait for each other, with a stand-in for SLURM's queue; test_slurm.py has a real one."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from report_workspace import DATASET, validated_fold
from tiny_run import make_run

from segplan.entry import slurm_chain, sweep_job
from segplan.entry.launchers import Slurm
from segplan.entry.slurm_chain import Link, pop_cluster, run_chain
from segplan.errors import ConfigError, RunError
from segplan.jobs import cluster
from segplan.jobs.prepare import fold_folder

SLURM = Slurm(gpus_per_node=2, tasks_per_node=2, wait=False)


@dataclass
class Queue:
    """What is in the queue, by log; what was submitted with which jobs before it, and what was cancelled."""

    states: dict[Path, tuple[str, str]] = field(default_factory=dict)
    submitted: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    jobs: list = field(default_factory=list)
    resources: list[Slurm] = field(default_factory=list)

    def job_of(self, command):
        return self.states.get(command.log, (None, ""))[0]

    def is_pending(self, job):
        return (job, "PENDING") in self.states.values()

    def submit_group(self, group, launcher, environment, after=()):
        [job] = group
        number = str(len(self.submitted) + 1)
        self.states[job.command.log] = (number, "PENDING")
        self.submitted.append((job.name, tuple(after)))
        self.jobs.append(job)
        self.resources.append(launcher)
        return [number]

    def end(self, number, code=None):
        [log] = [log for log, (job, _) in self.states.items() if job == number]
        del self.states[log]
        if code is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.with_name(f"{log.name}.code").write_text(f"{code}\n")

    def run(self, number):
        self.states = {log: (job, "RUNNING" if job == number else state) for log, (job, state) in self.states.items()}


@pytest.fixture
def queue(monkeypatch):
    queue = Queue()
    monkeypatch.setattr(cluster, "require_slurm", lambda: None)
    monkeypatch.setattr(cluster, "job_of", queue.job_of)
    monkeypatch.setattr(cluster, "is_pending", queue.is_pending)
    monkeypatch.setattr(cluster, "cancel", queue.cancelled.append)
    monkeypatch.setattr(sweep_job, "job_of", queue.job_of)
    monkeypatch.setattr(sweep_job, "compose_job", compose)
    monkeypatch.setattr(slurm_chain, "submit_group", queue.submit_group)
    return queue


def compose(job, words, workspace):
    """As the entry composes: `make_run`, which also writes the configuration, without that."""
    assert job == "train"
    files = {path: path.read_bytes() for path in workspace.glob("runs/**/config.yaml")}
    config = make_run(workspace, *words)
    written = fold_folder(config) / "config.yaml"
    written.unlink()
    if written in files:
        written.write_bytes(files[written])
    return config


def links(workspace, *overrides):
    trainings = [Link(f"fold {fold}", ["train", f"fold={fold}", *overrides]) for fold in (0, 1)]
    last = Link("select", ["select", DATASET], after=["fold 0", "fold 1"], log=workspace / "logs" / "select.log")
    return [*trainings, last]


def names(queue):
    return [name for name, _ in queue.submitted]


def test_each_command_is_submitted_after_those_that_it_needs(queue, tmp_path):
    assert run_chain(links(tmp_path), SLURM, tmp_path) == dict.fromkeys(("fold 0", "fold 1", "select"))
    assert queue.submitted == [
        (f"{DATASET}/3d_fullres/fold_0", ()),
        (f"{DATASET}/3d_fullres/fold_1", ()),
        ("segplan select", ("1", "2")),
    ]
    assert [(each.tasks_per_node, each.signal_delay_s) for each in queue.resources] == [(2, 120), (2, 120), (1, 0)]
    assert queue.jobs[2].command.words[-3:] == ["select", DATASET, f"workspace={tmp_path}"]
    assert queue.jobs[0].command.words[-2].endswith("fold_0/config.yaml")


def test_what_is_in_the_queue_stays_there_and_its_configuration_too(queue, tmp_path):
    run_chain(links(tmp_path), SLURM, tmp_path)
    queue.run("1")
    [written] = tmp_path.glob("runs/**/fold_0/config.yaml")
    before = written.read_text()
    written.write_text(f"# kept\n{before}")
    run_chain(links(tmp_path), SLURM, tmp_path)
    assert len(queue.submitted) == 3
    assert queue.cancelled == []
    with pytest.raises(ConfigError, match="nothing is submitted"):
        run_chain(links(tmp_path, "trainer.max_epochs=7"), SLURM, tmp_path)
    assert written.read_text() == f"# kept\n{before}"


def test_what_waits_for_a_job_that_failed_is_submitted_again_after_the_new_one(queue, tmp_path):
    run_chain(links(tmp_path), SLURM, tmp_path)
    queue.end("1", code=1)
    run_chain(links(tmp_path), SLURM, tmp_path)
    assert queue.submitted[3:] == [(f"{DATASET}/3d_fullres/fold_0", ()), ("segplan select", ("4", "2"))]
    assert queue.cancelled == ["3"]


def test_a_job_that_runs_is_never_cancelled(queue, tmp_path):
    run_chain(links(tmp_path), SLURM, tmp_path)
    queue.end("1")
    queue.end("2", code=0)
    queue.run("3")
    run_chain(links(tmp_path), SLURM, tmp_path)
    assert queue.cancelled == []
    assert names(queue)[3:] == [f"{DATASET}/3d_fullres/fold_{fold}" for fold in (0, 1)]


def test_what_ended_well_counts_only_where_old_codes_are_gone(queue, tmp_path):
    run_chain(links(tmp_path), SLURM, tmp_path)
    for number in "123":
        queue.end(number, code=0)
    assert run_chain(links(tmp_path), SLURM, tmp_path, ended_count=True) == dict.fromkeys(
        ("fold 0", "fold 1", "select"), 0
    )
    run_chain(links(tmp_path), SLURM, tmp_path)
    assert len(queue.submitted) == 6


def test_a_training_that_is_done_as_it_is_asked_for_is_left_out(queue, tmp_path):
    validated_fold(tmp_path, 0)
    run_chain(links(tmp_path), SLURM, tmp_path)
    assert queue.submitted == [(f"{DATASET}/3d_fullres/fold_1", ()), ("segplan select", ("1",))]
    run_chain(links(tmp_path, "trainer.max_epochs=9"), SLURM, tmp_path / "other")
    assert names(queue)[2] == f"{DATASET}/3d_fullres/fold_0"


def test_where_one_training_cannot_work_nothing_is_written(queue, tmp_path, capsys):
    chain = [*links(tmp_path), Link("none", ["train", "fold=1", "run=a", "trainer.max_epochs=0"])]
    with pytest.raises(ConfigError, match="1 of 4 steps: cannot work, and nothing is submitted"):
        run_chain(chain, SLURM, tmp_path)
    assert "none: trainer.max_epochs=0" in capsys.readouterr().err
    assert queue.submitted == []
    assert not list(tmp_path.glob("runs/**/config.yaml"))


def test_how_jobs_ended_is_told_with_the_log_of_those_that_have_one(queue, tmp_path, monkeypatch, capsys):
    def wait_for(jobs):
        queue.end("1", code=3)
        return {"1": 3, "2": 0, "3": 1}

    monkeypatch.setattr(slurm_chain, "wait_for", wait_for)
    codes = run_chain(links(tmp_path), Slurm(), tmp_path)
    assert codes == {"fold 0": 3, "fold 1": 0, "select": 1}
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("segplan: fold 0: failed (3), see ")
    assert told[1] == "segplan: select: not begun: fold 0 failed"


def test_a_job_without_a_code_was_ended_from_outside(queue, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slurm_chain, "wait_for", lambda jobs: {"1": 0, "2": 0, "3": 1})
    run_chain(links(tmp_path), Slurm(), tmp_path)
    told = capsys.readouterr().err.splitlines()
    assert told == ["segplan: select: cancelled, its time was over, or its machine failed"]


def test_without_slurm_nothing_is_composed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="no sbatch"):
        run_chain([Link("a", ["train"])], SLURM, tmp_path)


def test_a_machine_runs_one_after_another_and_says_so():
    assert pop_cluster(["seed=1"]) == (None, ["seed=1"])
    launcher, others = pop_cluster(["seed=1", "hydra/launcher=slurm", "hydra.launcher.mem_gb=8"])
    assert launcher == Slurm(mem_gb=8, setup=[])
    assert others == ["seed=1"]
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.n_jobs=2.*one after another"):
        pop_cluster(["+hydra/launcher=local", "hydra.launcher.n_jobs=2"])
