"""Which states of a run are kept: last, best and final."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from segplan.errors import StoreError, WorkerError
from segplan.training.callbacks.stopping import StopOnSignal, TrainingStoppedError
from segplan.training.checkpoint_io import SafeCheckpointIO
from segplan.training.module import SegmentationModule
from segplan.training.random_states import random_states, restore_random_states
from segplan.training.rank_agreement import RankAgreement


class Checkpoints(pl.Callback):
    """Saves `last.ckpt`, `best.ckpt` (highest moving average of the patch Dice, weights only) and `final.ckpt`.

    It saves only where Lightning can resume exactly: between two optimiser steps inside an epoch, or at an epoch's end.

    Args:
        folder: where they stand.
        stop: asked after each step whether to save and leave.
        minutes: time between two saves of `last.ckpt`: the most that a crash loses.
    """

    def __init__(self, folder: Path, stop: StopOnSignal, minutes: float = 10.0) -> None:
        self.last, self.best, self.final = (folder / f"{name}.ckpt" for name in ("last", "best", "final"))
        self._stop = stop
        self._seconds = 60 * minutes
        self._saved_at = time.monotonic()
        self._ranks: RankAgreement | None = None
        self._resumed_states: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """A subclass goes on from what this one saved."""
        return Checkpoints.__name__

    def state_dict(self) -> dict[str, Any]:
        """What every checkpoint keeps of this: the random states."""
        return {"random_states": random_states()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random states until the first step: what comes before it draws numbers too."""
        self._resumed_states = state_dict["random_states"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the minutes from here."""
        self._saved_at = time.monotonic()
        self._ranks = RankAgreement()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Go on with the random numbers that were due."""
        if self._resumed_states is not None:
            restore_random_states(self._resumed_states)
            self._resumed_states = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time or a signal came."""
        done = batch_idx + 1
        # Gradients still being accumulated are in no checkpoint; an epoch's last step waits for its validation.
        if done % trainer.accumulate_grad_batches == 0 and done < trainer.num_training_batches:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best; save when it is time or a signal came."""
        if isinstance(pl_module, SegmentationModule) and pl_module.note_best():
            trainer.save_checkpoint(self.best, weights_only=True)
        self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end state, from which a run with more epochs can go on."""
        trainer.save_checkpoint(self.last)
        trainer.save_checkpoint(self.final)
        _finish_writing(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save where a loader process has died, or a case cannot be read, between two steps: nothing is lost then."""
        if not isinstance(exception, WorkerError | StoreError) or trainer.world_size > 1:
            return  # several ranks would wait for each other
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        # From an epoch's validation or from its first batch Lightning does not resume exactly.
        if 0 < done < trainer.num_training_batches and done % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.last)
            _finish_writing(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        if isinstance(writer := trainer.strategy.checkpoint_io, SafeCheckpointIO):
            writer.check()
        due = self._stop.received is not None or time.monotonic() - self._saved_at >= self._seconds
        ranks = self._ranks or RankAgreement()
        if not ranks.highest(int(due)):
            return
        reason = ranks.highest(self._stop.number)  # asked before saving: what comes meanwhile is for the next time
        trainer.save_checkpoint(self.last)
        self._saved_at = time.monotonic()
        if reason:
            _finish_writing(trainer)
            raise TrainingStoppedError(self._stop.name_of(reason))


def _finish_writing(trainer: pl.Trainer) -> None:
    if isinstance(writer := trainer.strategy.checkpoint_io, SafeCheckpointIO):
        writer.wait()
