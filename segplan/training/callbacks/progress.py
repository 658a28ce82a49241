"""What a person sees of training: a bar on a terminal, one `key=value` line an epoch elsewhere."""

import math
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from torch import Tensor

from segplan.training.module import SegmentationModule

_REFRESH_SECONDS = 0.5


class ProgressBar(pl.Callback):
    """Shows epoch, loss, patch Dice, samples/s, the share of time spent waiting for data, and the time left.

    Args:
        terminal: draw a bar; None finds out whether standard output is a terminal.
    """

    def __init__(self, terminal: bool | None = None) -> None:
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._loss = _LaggingScalar()
        self._shown_at = 0.0
        self._dice = ""
        self._epoch_seconds: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar."""
        if trainer.is_global_zero and self._terminal:
            columns: tuple[ProgressColumn, ...] = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.completed}/{task.total}  {task.fields[text]}"),
            )
            self._bar = Progress(*columns, console=Console(), transient=False)
            self._task = self._bar.add_task(_title(trainer), total=int(trainer.num_training_batches), text="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraw, at most twice a second."""
        now = time.monotonic()
        if self._bar is None or self._task is None or now - self._shown_at < _REFRESH_SECONDS:
            return
        self._shown_at = now
        loss = self._loss.exchange(outputs["loss"] if isinstance(outputs, dict) else outputs)
        parts = [f"loss {loss:.3f}" if loss is not None else "", self._dice]
        if isinstance(pl_module, SegmentationModule):
            clock = pl_module.clock
            parts += [f"{clock.samples_per_s:.3g} samples/s", f"waiting {clock.waiting_share:.0%}"]
        if self._epoch_seconds:
            parts += [f"epoch {_duration(self._epoch_seconds[-1])}", f"left {_duration(self._seconds_left(trainer))}"]
        text = "  ".join(part for part in parts if part)
        self._bar.update(self._task, description=_title(trainer), completed=batch_idx + 1, text=text)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line where there is no bar."""
        if not isinstance(pl_module, SegmentationModule):
            return
        row = pl_module.epoch_summary()  # on every rank: it gathers their counts
        if not trainer.is_global_zero:
            return
        self._epoch_seconds.append(row["epoch_s"])
        self._dice = _dice_text(row)
        if self._bar is None:
            left = self._seconds_left(trainer, finished=1)
            pairs = [f"{key}={_number(value)}" for key, value in row.items()]
            pairs.insert(1, f"epochs={trainer.max_epochs}")
            print(" ".join([*pairs, f"left_s={left:.0f}"]), flush=True)  # noqa: T201

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it is."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back before the error is printed."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _seconds_left(self, trainer: pl.Trainer, finished: int = 0) -> float:
        remaining = int(trainer.max_epochs or 0) - trainer.current_epoch - finished
        recent = self._epoch_seconds[-10:]
        return max(0, remaining) * sum(recent) / len(recent)


class _LaggingScalar:
    """Hands out the scalar of the call before, so that the device is never waited for."""

    def __init__(self) -> None:
        self._host: Tensor | None = None

    def exchange(self, value: Tensor) -> float | None:
        before = None if self._host is None else float(self._host)
        if self._host is None:
            self._host = torch.empty((), pin_memory=value.is_cuda)
        self._host.copy_(value.detach(), non_blocking=True)
        return before


def _title(trainer: pl.Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"


def _dice_text(row: dict[str, float]) -> str:
    prefix = "patch_dice/"
    classes = " ".join(f"{key.removeprefix(prefix)} {row[key]:.2f}" for key in row if key.startswith(prefix))
    return f"patch Dice {row['patch_dice']:.2f} ({classes})"


def _number(value: float) -> str:
    if isinstance(value, int) or math.isnan(value):
        return str(value)
    return f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} m"
    return f"{minutes} m {rest:02d} s" if minutes else f"{rest} s"
