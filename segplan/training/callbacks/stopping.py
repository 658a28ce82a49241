"""Ctrl-C, SIGTERM and SIGUSR1 end training between two steps, where everything can be saved."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl

OTHER = 255  # above the signals


class TrainingStoppedError(Exception):
    """Training was asked to stop and has saved; the same command goes on."""


class StopOnSignal(pl.Callback):
    """Notes a signal for `Checkpoints` to act on; the first one counts, and a second Ctrl-C leaves at once.

    Further SIGTERM and SIGUSR1 change nothing: clusters send both, and to every process, so that some arrive twice.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._owner = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    @property
    def number(self) -> int:
        """0: nothing came; a signal's number; `OTHER` for another reason to stop."""
        return 0 if self.received is None else int(signal.Signals.__members__.get(self.received, OTHER))

    def name_of(self, number: int) -> str:
        """The reason that a rank, this one or another, gave as `number`."""
        if number == OTHER:
            return self.received or "the limit of another rank"
        return signal.Signals(number).name

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over, from Lightning too: it would leave before an epoch's end is recorded."""
        self._owner = os.getpid()
        if threading.current_thread() is not threading.main_thread():
            return
        names = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
        for number in (signal.Signals[name] for name in names):
            self._before[number] = signal.getsignal(number)
            signal.signal(number, self._note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a forked loader worker: Ctrl-C reaches it too, and it must go on until the step is done
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        if self.received is None:
            self.received = signal.Signals(number).name
            more = "; once more leaves at once" if number == signal.SIGINT else ""
            sys.stderr.write(f"{self.received}: saving after this step{more}\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
