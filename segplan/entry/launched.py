"""Which of several processes this is, where torchrun or srun started one command more than once."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from omegaconf import DictConfig, ListConfig

from segplan.errors import ConfigError, SegplanError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")  # $SLURM_NTASKS is no sign: a job's own script has it
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Rank:
    """One of `count` processes on all machines, and the `local`th on its own; both count from 0."""

    number: int
    count: int
    local: int
    by_torchrun: bool = False


def launched_rank(environment: Mapping[str, str]) -> Rank | None:
    """What the launcher says of this process; None where it runs alone."""
    for names in (_TORCHRUN, _SRUN):
        given = [environment.get(name, "") for name in names]
        if all(value.isdigit() for value in given):
            number, count, local = (int(value) for value in given)
            if number < count and count > 1:
                return Rank(number, count, local, by_torchrun=names is _TORCHRUN)
    return None


def take_share(config: DictConfig, rank: Rank, gpus: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Leave to this process its share of a prediction's cases, unless it was given one, and a GPU of its own.

    Args:
        config: a prediction's; changed.
        rank: this process's.
        gpus: those that it sees; where there are several, or `trainer.devices` lists some, it keeps one of them.
        environment: this process's; changed before CUDA looks at it.

    Raises:
        ConfigError: there are several GPUs, but fewer than processes.
    """
    if config.shard == 0 and config.num_shards == 1:
        config.shard, config.num_shards = rank.number, rank.count
    devices = config.trainer.devices
    if isinstance(devices, ListConfig):
        gpus = [str(device) for device in devices]
    config.trainer.devices = 1
    if len(gpus) < 2 or config.trainer.accelerator == "cpu":
        return
    if rank.local >= len(gpus):
        what = f"there are more than {len(gpus)} processes, and only {len(gpus)} GPUs ({', '.join(gpus)})"
        raise ConfigError(what, "trainer.devices", "Start one process for each GPU.")
    environment["CUDA_VISIBLE_DEVICES"] = gpus[rank.local]


@contextmanager
def leaving_together(rank: Rank) -> Iterator[None]:
    """Hold the end of what is done within until all ranks are there: torchrun kills all as soon as one has failed.

    A case that cannot be read must not cost the other processes their cases.
    """
    try:
        yield
    except SegplanError:
        _wait(rank)
        raise
    _wait(rank)


def _wait(rank: Rank) -> None:
    if not rank.by_torchrun:
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=_PATIENCE)
    distributed.barrier()
    distributed.destroy_process_group()
