"""What the processes of one training agree on between two steps, without waiting for a device."""

import torch
from torch import distributed


class RankAgreement:
    """Asks all ranks for a number; made on every rank at the same point, or it waits for ever.

    The answers go through gloo and the CPU: a collective on the accelerator would wait for the step that it computes.
    """

    def __init__(self) -> None:
        self._group = distributed.new_group(backend="gloo") if _is_one_of_several() else None

    def highest(self, number: int) -> int:
        """The highest number that a rank names; every rank must ask."""
        if self._group is None:
            return number
        numbers = torch.tensor([number], dtype=torch.int32)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX, self._group)
        return int(numbers.item())


def _is_one_of_several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
