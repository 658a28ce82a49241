"""What the ranks of a distributed training tell each other beside tensors: plain values, and failures."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed

T = TypeVar("T")


def rank_and_count() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) where one process trains alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gather_objects(value: Any) -> list[Any]:
    """`value` of every rank; every rank must call it. A list of one where there is one rank."""
    _, count = rank_and_count()
    if count == 1:
        return [value]
    values: list[Any] = [None] * count
    distributed.all_gather_object(values, value)
    return values


def on_all_ranks(work: Callable[[], T]) -> T:
    """Do `work` on every rank, all of which must call this; returns this rank's result when all have done theirs.

    What it raises on one rank is raised on all, so that none waits for one that has failed.
    """
    if rank_and_count()[1] == 1:
        return work()
    result: list[T] = []
    failure: Exception | None = None
    try:
        result.append(work())
    except Exception as error:  # raised below, here and on the others
        failure = error
    for told in gather_objects(failure):
        if told is not None:
            raise told
    return result[0]
