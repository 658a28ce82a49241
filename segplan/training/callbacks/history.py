"""history.jsonl: what happened to a run from command to command; one line of JSON an event."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from segplan.training.module import SegmentationModule


class History(pl.Callback):
    """Notes when training began or went on, on what machine and how, and a schedule that now ends at another epoch.

    Args:
        path: the file; lines are only ever appended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the start, and say it where the number of epochs is another one than before."""
        if not (trainer.is_global_zero and isinstance(pl_module, SegmentationModule)):
            return
        before, now = pl_module.saved_max_epochs, trainer.max_epochs
        if before is not None and before != now:
            place = f"epoch {trainer.current_epoch + 1}"
            self._note(trainer, "max_epochs", before=before, now=now)
            print(f"trainer.max_epochs {before} → {now}: the schedule goes on from {place} of {now}", flush=True)  # noqa: T201
        self._note(
            trainer,
            "begins" if before is None else "goes_on",
            max_epochs=now,
            precision=str(trainer.precision),
            device=str(trainer.strategy.root_device),
            ranks=trainer.world_size,
            torch=str(torch.__version__),
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the end and its reason."""
        if trainer.is_global_zero and isinstance(pl_module, SegmentationModule):
            how = {} if pl_module.execution is None else vars(pl_module.execution)
            self._note(trainer, "ends", because=pl_module.ended_because or "all epochs are done", **how)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Note what ended this command."""
        if trainer.is_global_zero:
            self._note(trainer, "stops", because=f"{type(exception).__name__}: {exception}"[:500])

    def _note(self, trainer: pl.Trainer, event: str, **values: Any) -> None:
        # The epoch that is at work, counted from 1; at the end the last one, and Lightning has counted on by then.
        epoch = trainer.current_epoch + (event != "ends")
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event}
        entry |= {"epoch": epoch, "step": trainer.global_step} | values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
