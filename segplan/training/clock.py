"""Where an epoch's time goes: training steps, and waiting for the loader between them."""

import time
from dataclasses import dataclass, field


@dataclass
class StepClock:
    """Told when an epoch and its steps begin and end; knows the loader's share and the samples a second.

    On an accelerator a step ends when its work is queued, so waiting is what the program waits, not the device.
    """

    epoch_started: float = field(default_factory=time.perf_counter)
    _step_ended: float | None = None
    _waiting: float = 0.0
    _stepping: float = 0.0
    _step_started: float = 0.0
    _samples: int = 0

    def start_epoch(self) -> None:
        """Forget the epoch before."""
        self.epoch_started = time.perf_counter()
        self._waiting = self._stepping = 0.0
        self._samples = 0
        self._step_ended = self.epoch_started

    def start_step(self) -> None:
        """A batch has arrived."""
        self._step_started = time.perf_counter()
        if self._step_ended is not None:
            self._waiting += self._step_started - self._step_ended

    def end_step(self, samples: int) -> None:
        """The step on a batch of `samples` is done; the next batch is waited for from now on."""
        self._step_ended = time.perf_counter()
        self._stepping += self._step_ended - self._step_started
        self._samples += samples

    @property
    def waiting_share(self) -> float:
        """Share of the training time, from 0 to 1, that passed between the steps."""
        return self._waiting / self._train_seconds if self._train_seconds else 0.0

    @property
    def samples_per_s(self) -> float:
        """Training samples a second, waiting included, validation not."""
        return self._samples / self._train_seconds if self._train_seconds else 0.0

    @property
    def epoch_s(self) -> float:
        """Seconds since the epoch began."""
        return time.perf_counter() - self.epoch_started

    @property
    def _train_seconds(self) -> float:
        return self._waiting + self._stepping
