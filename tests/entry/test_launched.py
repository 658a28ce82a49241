import pytest
from omegaconf import OmegaConf

from segplan.entry.launched import Rank, launched_rank, take_share

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        (TORCHRUN, Rank(3, 4, 1)),
        (SRUN, Rank(1, 2, 0)),
        (SRUN | TORCHRUN, Rank(3, 4, 1)),
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
    return OmegaConf.create({"shard": 0, "num_shards": 1, "trainer": {"devices": 2}} | values)


def test_ranks_share_all_cases_and_shards_are_shared_again():
    cases = list(range(23))
    for shards in (1, 3):
        taken = []
        for shard in range(shards):
            for number in range(4):
                config = config_of(shard=shard, num_shards=shards)
                take_share(config, Rank(number, 4, number), [], {})
                assert config.trainer.devices == 1
                assert config.num_shards == 4 * shards
                taken += cases[config.shard :: config.num_shards]
        assert sorted(taken) == cases


@pytest.mark.parametrize(
    ("gpus", "given", "visible"),
    [
        ([], {}, {}),
        (["0"], {}, {}),
        (["0", "1", "2"], {}, {"CUDA_VISIBLE_DEVICES": "2"}),
        (["GPU-a", "GPU-b"], {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, {"CUDA_VISIBLE_DEVICES": "GPU-a"}),
    ],
)
def test_each_rank_keeps_one_gpu(gpus, given, visible):
    environment = dict(given)
    take_share(config_of(), Rank(2, 4, 2), gpus, environment)
    assert environment == visible


def test_a_shard_that_is_no_number_is_left_to_be_refused():
    config = config_of(shard="x")
    take_share(config, Rank(1, 2, 1), [], {})
    assert (config.shard, config.num_shards) == ("x", 1)
