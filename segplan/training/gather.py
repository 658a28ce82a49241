"""Plain values of all ranks, in the ranks' order."""

from typing import Any

from torch import distributed


def gather_objects(value: Any) -> list[Any]:
    """`value` of every rank; every rank must call it. A list of one where there is one rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
