"""Which of several processes this is, where torchrun or srun started one command more than once."""

import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from omegaconf import DictConfig, ListConfig

from segplan.errors import ConfigError, SegplanError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_OF_TORCHRUN = "TORCHELASTIC_RUN_ID"  # others set those three too
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")  # $SLURM_NTASKS is no sign: a job's own script has it
_TO_START, _TO_END = timedelta(minutes=30), timedelta(days=30)


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
                return Rank(number, count, local, names is _TORCHRUN and _OF_TORCHRUN in environment)
    return None


def take_share(config: DictConfig, rank: Rank, gpus: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Leave to this process its share of a prediction's cases, and a GPU of its own.

    Args:
        config: a prediction's; changed. Values that cannot work stay as they are, to be refused by name.
        rank: this process's.
        gpus: those that it sees; where there are several, it keeps the one of its number. `trainer.devices=[2,3]`
            names them instead.
        environment: this process's; changed before CUDA looks at it.

    Raises:
        ConfigError: there are fewer GPUs than processes, or `shard` is given, to each or to all: nobody can tell.
    """
    if config.shard != 0 or config.num_shards != 1:
        what = f"process {rank.number} of {rank.count} that started together shares all cases with the others by itself"
        where = f"shard={config.shard} num_shards={config.num_shards}"
        raise ConfigError(
            what, where, "Leave them out, or start one process a shard, without torchrun or srun's tasks."
        )
    config.shard, config.num_shards = rank.number, rank.count
    devices = config.trainer.devices
    named = [str(device) for device in devices] if isinstance(devices, ListConfig) else []
    if named or devices == "auto" or str(devices).isdigit():
        config.trainer.devices = 1
    if config.trainer.accelerator == "cpu" or (not named and len(gpus) < 2):
        return
    chosen = named or list(gpus)
    if rank.local >= len(chosen):
        what = f"there are more than {len(chosen)} processes, and only {len(chosen)} GPUs ({', '.join(chosen)})"
        raise ConfigError(what, "trainer.devices", "Start one process for each GPU.")
    environment["CUDA_VISIBLE_DEVICES"] = chosen[rank.local]


@contextmanager
def leaving_together(rank: Rank) -> Iterator[None]:
    """Hold the end of what is done within until all ranks are there: torchrun kills all as soon as one has failed.

    A case that cannot be read must not cost the other processes their cases.
    """
    if not rank.by_torchrun:
        yield
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=_TO_START)
    try:
        yield
    except SegplanError:
        _wait()
        raise
    else:
        _wait()
    finally:
        distributed.destroy_process_group()


def _wait() -> None:
    from torch import distributed

    try:
        distributed.monitored_barrier(timeout=_TO_END)
    except RuntimeError as error:  # another has ended without a word, so nobody needs to be waited for any more
        sys.stderr.write(f"segplan: another process has ended before this one ({error})\n")
