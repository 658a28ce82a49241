"""`trainer.max_time`: how long one command may train. What is reached is saved, and the same command goes on."""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl

from segplan.errors import ConfigError
from segplan.training.callbacks.stopping import StopOnSignal


class TimeLimit(pl.Callback):
    """Ends training as a signal would, once its time is over: `Checkpoints` saves, and nothing counts as finished.

    Unlike Lightning's own timer it counts this command's time, not that of all commands before it.

    Args:
        limit: of the time from the first step on.
        stop: what `Checkpoints` looks at.
    """

    def __init__(self, limit: timedelta, stop: StopOnSignal) -> None:
        self._seconds = limit.total_seconds()
        self._stop = stop
        self._started = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from here."""
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock; the step that ran out of time is the last."""
        if time.monotonic() - self._started >= self._seconds and self._stop.received is None:
            self._stop.received = "trainer.max_time"


def time_limit(value: Any) -> timedelta:
    """What `trainer.max_time` means: DD:HH:MM:SS, or a mapping such as {hours: 2}.

    Raises:
        ConfigError: it is neither, or no time at all.
    """
    try:
        if isinstance(value, Mapping):
            limit = timedelta(**{str(key): float(number) for key, number in value.items()})
        else:
            days, hours, minutes, seconds = (int(part) for part in str(value).split(":"))
            limit = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except (TypeError, ValueError):
        limit = timedelta(0)
    if limit <= timedelta(0):
        raise ConfigError("is no length of time", f"trainer.max_time={value}", "Write DD:HH:MM:SS, e.g. 00:11:30:00.")
    return limit
