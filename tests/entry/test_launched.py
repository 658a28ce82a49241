import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from segplan.entry.launched import Rank, launched_rank, take_share
from segplan.entry.main import main
from segplan.errors import ConfigError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        (TORCHRUN, Rank(3, 4, 1, by_torchrun=True)),
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
def test_a_share_that_was_given_is_left_alone(given):
    config = config_of(**given)
    take_share(config, Rank(1, 4, 1), [], {})
    assert {key: config[key] for key in given} == given


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


def test_a_sweep_is_refused_in_one_of_several_processes(monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert main("predict", ["-m", "plan=D/2d", "shard=0,1", "num_shards=2"]) == 2
    assert "Leave out -m, or torchrun and srun" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_a_rank_of_torchruns_that_failed_leaves_when_the_others_are_done(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "from segplan.entry.launched import launched_rank, leaving_together\n"
        "from segplan.errors import ImageError\n"
        "rank = launched_rank(os.environ)\n"
        "try:\n"
        "    with leaving_together(rank):\n"
        "        if rank.number:\n"
        "            raise ImageError('cannot be read')\n"
        "        time.sleep(4)\n"
        "        open('done', 'w').close()\n"
        "except ImageError:\n"
        "    open('failed' if os.path.exists('done') else 'too early', 'w').close()\n"
        "    sys.exit(2)\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(torchrun, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode != 0
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "done", "failed"}
