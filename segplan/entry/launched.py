"""Which of several processes this is, where torchrun or srun started one command more than once."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

# torchrun's, and those of a step that srun started. $SLURM_NTASKS is no sign: a job's own script has it too.
_VARIABLES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Rank:
    """One of `count` processes on all machines, and the `local`th on its own; both count from 0."""

    number: int
    count: int
    local: int


def launched_rank(environment: Mapping[str, str]) -> Rank | None:
    """What the launcher says of this process; None where it runs alone."""
    for names in _VARIABLES:
        given = [environment.get(name, "") for name in names]
        if all(value.isdigit() for value in given):
            number, count, local = (int(value) for value in given)
            if number < count and count > 1:
                return Rank(number, count, local)
    return None


def take_share(config: DictConfig, rank: Rank, gpus: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Leave to this process its share of a prediction's cases, or of its shard of them, and one GPU.

    Args:
        config: a prediction's; changed.
        rank: this process's.
        gpus: those that it sees; where there are several, the process keeps the one of its number.
        environment: this process's; changed before CUDA looks at it.
    """
    if isinstance(config.shard, int) and isinstance(config.num_shards, int):  # anything else is refused later, by name
        config.shard += config.num_shards * rank.number
        config.num_shards *= rank.count
    config.trainer.devices = 1
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[rank.local % len(gpus)]
