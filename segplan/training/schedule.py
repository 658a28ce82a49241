"""Learning-rate schedules: functions of the absolute epoch, so that a resumed run needs no state of theirs.

The one that follows the losses (`PlateauDecay`) has a state, which checkpoints keep.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from segplan.errors import ConfigError


@dataclass(frozen=True)
class PolynomialDecay:
    """The learning rate falls as (1 - epoch / max_epochs) ** power, once an epoch (nnU-Net: power 0.9).

    Args:
        power: 1 is a straight line; below 1 the rate stays high for longer and falls faster at the end.
        warmup_epochs: epochs in which the rate first rises in a straight line; the decay is over the rest.
    """

    power: float = 0.9
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_epochs)

    def __call__(self, epoch: int, max_epochs: int) -> float:
        """Return the factor on the initial learning rate in `epoch`, counted from 0, of `max_epochs`."""
        if epoch < self.warmup_epochs:
            return (epoch + 1) / self.warmup_epochs
        return float((1 - _progress(epoch, max_epochs, self.warmup_epochs)) ** self.power)


@dataclass(frozen=True)
class CosineDecay:
    """The learning rate falls along half a cosine, once an epoch.

    Args:
        warmup_epochs: epochs in which the rate first rises in a straight line; the decay is over the rest.
        minimum: factor at the end.
    """

    warmup_epochs: int = 0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup_epochs)

    def __call__(self, epoch: int, max_epochs: int) -> float:
        """Return the factor on the initial learning rate in `epoch`, counted from 0, of `max_epochs`."""
        if epoch < self.warmup_epochs:
            return (epoch + 1) / self.warmup_epochs
        progress = _progress(epoch, max_epochs, self.warmup_epochs)
        return self.minimum + (1 - self.minimum) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class _Plateau:
    factor: float = 1.0
    train: float | None = None
    val: float | None = None
    best_train: float = math.inf
    best_val: float = math.inf
    train_stalled: int = 0
    val_stalled: int = 0


@dataclass
class PlateauDecay:
    """The learning rate is divided when the training loss stops falling (nnU-Net's first version, 2018).

    Moving averages are exponential; the first epoch's loss starts them.

    Args:
        divisor: what the rate is divided by.
        patience: epochs without a fall by `threshold` of the training loss's average before it is divided.
        threshold: smallest fall that counts.
        stop_patience: training ends after so many epochs without progress of the validation loss's average, or …
        stop_below: … once the rate, as a factor on the initial one, is below this: 1e-6 of 3e-4.
        train_decay: weight of the history in the training loss's average.
        val_decay: weight of the history in the validation loss's average.
    """

    divisor: float = 5.0
    patience: int = 30
    threshold: float = 5e-3
    stop_patience: int = 60
    stop_below: float = 1e-6 / 3e-4
    train_decay: float = 0.93
    val_decay: float = 0.9
    _state: _Plateau = field(default_factory=_Plateau, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.divisor <= 1:
            raise ConfigError(f"{self.divisor} does not lower the rate", "schedule.divisor", "Give more than 1.")

    def __call__(self, epoch: int, max_epochs: int) -> float:
        """Return the factor on the initial learning rate for the next epoch; it follows from the losses alone."""
        return self._state.factor

    def observe(self, train_loss: float, val_loss: float) -> None:
        """Take note of an epoch's losses, once at its end."""
        state = self._state
        state.train = _average(state.train, train_loss, self.train_decay)
        state.val = _average(state.val, val_loss, self.val_decay)
        if state.train < state.best_train - self.threshold:
            state.best_train, state.train_stalled = state.train, 0
        else:
            state.train_stalled += 1
        if state.val < state.best_val:
            state.best_val, state.val_stalled = state.val, 0
        else:
            state.val_stalled += 1
        if state.train_stalled > self.patience:
            state.factor /= self.divisor
            state.train_stalled = 0

    @property
    def finished(self) -> str | None:
        """Why training should end now; None while it should go on."""
        if self._state.factor < self.stop_below:
            return "the learning rate has fallen below its limit"
        if self._state.val_stalled > self.stop_patience:
            return f"the validation loss has made no progress for {self.stop_patience} epochs"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from another one's `state_dict`."""
        self._state = _Plateau(**state)


def _average(history: float | None, value: float, decay: float) -> float:
    return value if history is None else decay * history + (1 - decay) * value


def _progress(epoch: int, max_epochs: int, warmup: int) -> float:
    """Share of the epochs after the warm-up that lies before `epoch`, at most 1."""
    return min(1.0, (epoch - warmup) / max(1, max_epochs - warmup))


def _check_warmup(epochs: int) -> None:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ConfigError(f"{epochs} is no number of epochs", "schedule.warmup_epochs", "Give a whole number.")
