"""Where the jobs of a sweep run, and that several at once share the GPUs of a machine."""

import os
import signal
import sys
import threading
import time
from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from segplan.entry import multirun
from segplan.entry.compose import parse_overrides
from segplan.entry.launchers import Local, Slurm, pop_launcher
from segplan.entry.locations import configs_folder
from segplan.entry.multirun import name_runs
from segplan.entry.processes import run_process, run_processes
from segplan.errors import ConfigError
from segplan.jobs.cluster import Command


@pytest.mark.parametrize(("name", "kind"), [("local", Local), ("slurm", Slurm)])
def test_shipped_values_are_the_defaults(name, kind):
    node = OmegaConf.to_container(OmegaConf.load(configs_folder() / "hydra" / "launcher" / f"{name}.yaml"))
    assert set(node) == {field.name for field in fields(kind)}
    for field, value in node.items():
        default = getattr(kind(), field)
        assert value == (list(default) if isinstance(default, tuple) else default)


def test_without_a_choice_jobs_run_here_one_after_another():
    assert pop_launcher(["plan=a", "fold=0,1"]) == (Local(), ["plan=a", "fold=0,1"])


def test_the_launcher_takes_its_own_settings_and_leaves_the_others():
    words = ["fold=0,1", "hydra/launcher=slurm", "hydra.launcher.partition=debug", "hydra.launcher.timeout_min=10"]
    more = ["hydra.launcher.additional_parameters={qos: low}", "+hydra.launcher.additional_parameters.gres=gpu:1"]
    launcher, others = pop_launcher([*words, *more])
    assert others == ["fold=0,1"]
    assert isinstance(launcher, Slurm)
    assert (launcher.partition, launcher.timeout_min, launcher.gpus_per_node) == ("debug", 10, None)
    assert launcher.additional_parameters == {"qos": "low", "gres": "gpu:1"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=slrum"], "no hydra/launcher=slrum. There are: local, slurm"),
        (["hydra/launcher=slurm", "hydra.launcher.partitin=a"], "Did you mean hydra.launcher.partition"),
        (["hydra.launcher.n_jobs=0"], "n_jobs=0: must be a whole number from 1"),
        (["hydra/launcher=slurm", "hydra.launcher.timeout_min=1.5"], "timeout_min=1.5: must be a whole number"),
        (["hydra.launcher.devices=all"], "must be auto or a list"),
        (["hydra/launcher=slurm", "hydra.launcher.mem_gb=lots"], "mem_gb=lots: must be a number above 0"),
        (["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=-1"], "must be a whole number from 0"),
        (["hydra/launcher=slurm", "hydra.launcher.additional_parameters=5"], "Write {qos: low}"),
        (["hydra/launcher=slurm", "hydra.launcher.setup='module load cuda'"], "setup=module load cuda: must be a list"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_remedy(words, message):
    with pytest.raises(ConfigError) as caught:
        pop_launcher(words)
    assert message in str(caught.value)


def test_jobs_at_once_get_the_gpus_that_are_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9")
    assert Local(n_jobs=2).visible() == ["4", "7"]
    assert Local().visible() == [None]
    assert Local(devices=[3]).visible() == ["3"]
    with pytest.raises(ConfigError, match="there are 3 \\(4, 7, 9\\)"):
        Local(n_jobs=4).visible()


def test_a_machine_without_gpus_runs_several_jobs_all_the_same(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("segplan.entry.launchers.shutil.which", lambda _: None)
    assert Local(n_jobs=2).visible() == [None, None]


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["plan=a,b", "fold=0,1"], []),
        (["fold=0", "optimizer.lr=0.01"], []),
        (["optimizer.lr=0.1,0.2", "loss=x,y"], ["lr_0.1-loss_x", "lr_0.1-loss_y", "lr_0.2-loss_x", "lr_0.2-loss_y"]),
        (["run='night'", "seed=range(0,2)"], ["night-seed_0", "night-seed_1"]),
        (["data.patch_size=[32,64],[64,64]"], ["patch_size_32_64", "patch_size_64_64"]),
        (["a.p=1,2", "b.p=1"], ["p_1", "p_2"]),
        (["a.p=1,2", "b.p=1,2", "fold=0"], ["a.p_1-b.p_1", "a.p_1-b.p_2", "a.p_2-b.p_1", "a.p_2-b.p_2"]),
        (["experiment=quick_look,regions"], []),
        (["experiment=a,b", "seed=0,1"], [f"experiment_{name}-seed_{seed}" for name in "ab" for seed in "01"]),
        (["run='lr${optimizer.lr}'", "optimizer.lr=0.1,0.2"], ["lr${optimizer.lr}"] * 2),
        (["run='x','y'", "optimizer.lr=0.1"], ["x", "y"]),
    ],
)
def test_jobs_that_would_share_a_folder_are_named_after_what_is_swept(words, runs):
    overrides = parse_overrides(words)
    named = name_runs(multirun._combinations(overrides), overrides)
    found = [word.removeprefix("run=").strip("'") for job in named for word in job if word.startswith("run=")]
    assert found == runs
    assert len({tuple(job) for job in named}) == len(named)


def command(folder, name, code):
    return Command([sys.executable, "-c", code], folder / f"{name}.log")


def test_each_job_has_a_gpu_of_its_own_while_it_runs(tmp_path):
    # Each job claims its GPU's file for a while; a second one at the same time could not create it.
    code = (
        "import os, time, pathlib; name = os.environ['CUDA_VISIBLE_DEVICES']; file = pathlib.Path(f'gpu{name}');"
        f"os.chdir({str(tmp_path)!r}); file.touch(exist_ok=False); time.sleep(0.2); file.unlink(); print('on', name)"
    )
    commands = [command(tmp_path, str(number), code) for number in range(5)]
    assert run_processes(commands, ["5", "6"], dict(os.environ)) == [0] * 5
    assert {one.log.read_text() for one in commands} == {"on 5\n", "on 6\n"}


def test_a_job_that_fails_stops_no_other_and_codes_keep_their_order(tmp_path):
    codes = ["raise SystemExit(3)", "pass", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    commands = [command(tmp_path, str(number), code) for number, code in enumerate(codes)]
    assert run_processes(commands, [None, None], dict(os.environ)) == [3, 0, 137]


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 5), (signal.SIGINT, 0)])
def test_a_signal_lets_the_running_job_end_and_starts_no_other(tmp_path, number, code):
    ready = tmp_path / "ready"
    waits = (
        "import signal, sys, time, pathlib; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5));"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60 if {code} else 1)"
    )

    def send():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    assert run_processes([command(tmp_path, "a", waits), command(tmp_path, "b", "pass")], [None], dict(os.environ)) == [
        code,
        None,
    ]
    sender.join()


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_single_command_is_told_of_a_signal_and_given_the_time_to_save(tmp_path, number):
    """It takes longer over it than the quarter of a second after which `subprocess.call` kills."""
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    code = (
        "import os, signal, sys, time, pathlib\n"
        f"def save(*_): time.sleep(0.6); pathlib.Path({str(saved)!r}).touch(); sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, save)\n"
        f"pathlib.Path({str(ready)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )

    def send():
        while not ready.exists() or not ready.read_text():
            time.sleep(0.01)
        if number == signal.SIGINT:  # a terminal's Ctrl-C reaches all processes of the group
            os.kill(int(ready.read_text()), number)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    assert run_process([sys.executable, "-c", code], dict(os.environ)) == 128 + number
    sender.join()
    assert saved.exists()


def test_shards_of_a_job_have_one_name_and_logs_of_their_own(tmp_path):
    from segplan.entry.sweep_job import SweepJobs

    sweep = SweepJobs("plan", tmp_path)
    jobs = [sweep.prepare(shard, [f"dataset='{tmp_path}/Dataset042_A b'", f"shard={shard}"]) for shard in (0, 1)]
    assert {job.name for job in jobs} == {"segplan plan Dataset042_A b"}
    assert jobs[0].command.log.parent == jobs[1].command.log.parent != jobs[1].command.log
    assert jobs[1].command.words[-1] == f"workspace='{tmp_path}'"
