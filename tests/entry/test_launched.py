import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from segplan.entry.launched import Rank, launched_rank, take_share
from segplan.entry.main import main
from segplan.errors import ConfigError

RANKS = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
TORCHRUN = RANKS | {"TORCHELASTIC_RUN_ID": "none"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        (TORCHRUN, Rank(3, 4, 1, by_torchrun=True)),
        (RANKS, Rank(3, 4, 1)),
        (SRUN, Rank(1, 2, 0)),
        (SRUN | TORCHRUN, Rank(3, 4, 1, by_torchrun=True)),
        ({}, None),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, None),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, None),  # a job's own script
        ({"RANK": "0", "WORLD_SIZE": "4"}, None),
        (TORCHRUN | {"RANK": "x"}, None),
    ],
)
def test_what_launchers_say_of_a_process(environment, rank):
    assert launched_rank(environment) == rank


def config_of(**values):
    trainer = {"devices": values.pop("devices", 2), "accelerator": values.pop("accelerator", "auto")}
    return OmegaConf.create({"shard": 0, "num_shards": 1, "trainer": trainer} | values)


def test_ranks_share_all_cases():
    cases, taken = list(range(23)), []
    for number in range(4):
        config = config_of()
        take_share(config, Rank(number, 4, number), [], {})
        assert config.trainer.devices == 1
        taken += cases[config.shard :: config.num_shards]
    assert sorted(taken) == cases


@pytest.mark.parametrize("given", [{"shard": 1, "num_shards": 4}, {"shard": "x"}, {"shard": 2}, {"num_shards": "2"}])
def test_a_shard_is_refused_since_it_may_be_meant_for_one_process_or_for_all(given):
    with pytest.raises(ConfigError, match="shares all cases with the others by itself"):
        take_share(config_of(**given), Rank(1, 4, 1), [], {})


@pytest.mark.parametrize("devices", ["x", "2,3", []])
def test_devices_that_cannot_work_are_left_to_be_refused(devices):
    config = config_of(devices=devices)
    take_share(config, Rank(1, 4, 1), [], {})
    assert config.trainer.devices == devices


@pytest.mark.parametrize(
    ("gpus", "given", "words", "visible"),
    [
        ([], {}, {}, {}),
        (["0"], {}, {}, {}),
        (["0", "1", "2"], {}, {}, {"CUDA_VISIBLE_DEVICES": "2"}),
        (["0", "1", "2"], {}, {"accelerator": "cpu"}, {}),
        (["0", "1", "2"], {}, {"devices": [5, 6, 7]}, {"CUDA_VISIBLE_DEVICES": "7"}),
        (["a", "b", "c"], {"CUDA_VISIBLE_DEVICES": "a,b,c"}, {}, {"CUDA_VISIBLE_DEVICES": "c"}),
    ],
)
def test_each_rank_keeps_one_gpu(gpus, given, words, visible):
    environment = dict(given)
    take_share(config_of(**words), Rank(2, 4, 2), gpus, environment)
    assert environment == visible


def test_fewer_gpus_than_processes_are_refused():
    with pytest.raises(ConfigError, match=r"only 2 GPUs \(0, 1\)"):
        take_share(config_of(), Rank(2, 4, 2), ["0", "1"], {})
    with pytest.raises(ConfigError, match=r"only 1 GPUs \(3\)"):
        take_share(config_of(devices=[3]), Rank(1, 2, 1), ["0", "1"], {})


def test_a_sweep_is_refused_in_one_of_several_processes(monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert main("predict", ["-m", "plan=D/2d", "shard=0,1", "num_shards=2"]) == 2
    assert "Leave out -m, or torchrun and srun" in capsys.readouterr().err


FAILS_FIRST = """
import os, sys, time
from segplan.entry.launched import launched_rank, leaving_together
from segplan.errors import ImageError
rank = launched_rank(os.environ)
try:
    with leaving_together(rank):
        if rank.number:
            open('begun', 'w').close()
            raise ImageError('cannot be read')
        while not os.path.exists('begun'):
            time.sleep(0.1)
        time.sleep(4)
        open('done', 'w').close()
except ImageError:
    open('failed' if os.path.exists('done') else 'too early', 'w').close()
    sys.exit(2)
"""
IS_KILLED = """
import os, signal, sys
from segplan.entry.launched import Rank, leaving_together
number = int(sys.argv[1])
with leaving_together(Rank(number, 2, number, by_torchrun=True)):
    if number:
        os.kill(os.getpid(), signal.SIGKILL)
print('left', flush=True)
"""


def here(**extra: str) -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"} | extra


@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_a_rank_of_torchruns_that_failed_leaves_when_the_others_are_done(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FAILS_FIRST)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(torchrun, cwd=tmp_path, env=here(), capture_output=True, check=False, timeout=120)
    assert done.returncode != 0
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "begun", "done", "failed"}


@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_a_rank_that_is_killed_is_not_waited_for():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first, second = (
        subprocess.Popen([sys.executable, "-c", IS_KILLED, str(number)], env=here(RANK=str(number), **store), **pipes)
        for number in (0, 1)
    )
    out, err = first.communicate(timeout=120)
    second.communicate(timeout=120)
    assert first.returncode == 0, err
    assert out == "left\n"
    assert "another process has ended" in err
