"""Learning-rate schedules: functions of the absolute epoch, so that a resumed run needs no state of theirs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PolynomialDecay:
    """The learning rate falls as (1 - epoch / max_epochs) ** power, once an epoch (nnU-Net: power 0.9).

    Args:
        power: 1 is a straight line; below 1 the rate stays high for longer and falls faster at the end.
    """

    power: float = 0.9

    def __call__(self, epoch: int, max_epochs: int) -> float:
        """Return the factor on the initial learning rate in `epoch`, counted from 0, of `max_epochs`."""
        return float(max(0.0, 1 - epoch / max_epochs) ** self.power)
