"""When the training loss stops being a number: find the batch, keep it, and say what to do.

Looking at the loss after each step would wait for the device. So the first bad step's number is kept on the device and
read at an epoch's end and before a checkpoint is written; the batch is then made again: a training batch is a function
of the seed and its number.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segplan.errors import RunError
from segplan.imaging import atomic_write
from segplan.training.gather import gather_objects

BATCH_FILE = "nan_batch.pt"

MakeBatch = Callable[[int], Mapping[str, Any]]
"""Makes training batch number i of this rank again."""


class FirstBadStep:
    """Remembers on the device in which step of an epoch the loss first was no finite number."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._loss: Tensor | None = None

    def reset(self) -> None:
        """Begin an epoch."""
        self._first = self._loss = None

    def note(self, loss: Tensor, step: int) -> None:
        """Look at a step's loss, a scalar; waits for nothing."""
        if self._first is None or self._loss is None:
            self._first = torch.full((), -1, dtype=torch.int64, device=loss.device)
            self._loss = torch.zeros((), device=loss.device)
        is_first = ~torch.isfinite(loss) & (self._first < 0)
        self._first.masked_fill_(is_first, step)
        self._loss = torch.where(is_first, loss.float(), self._loss)

    def read(self) -> tuple[int, float] | None:
        """The step and its loss, None where all were finite; waits for the device."""
        if self._first is None or self._loss is None or int(self._first) < 0:
            return None
        return int(self._first), float(self._loss)


def check_losses(watch: FirstBadStep, epoch: int, batches_per_epoch: int, folder: Path, make: MakeBatch | None) -> None:
    """Do nothing if every loss of the epoch was finite. Every rank must call it, and all end alike.

    Args:
        watch: what looked at the losses.
        epoch: counted from 0.
        batches_per_epoch: to number the batches of all training.
        folder: where `nan_batch.pt` is written: image, labels, case names, epoch, step and loss.
        make: makes a batch again; without it no case is named.

    Raises:
        RunError: a loss was infinite or NaN; names the first such step, its cases and the file.
    """
    found = gather_objects(watch.read())
    bad = [(step, rank, loss) for rank, (step, loss) in enumerate(entry or (-1, 0.0) for entry in found) if step >= 0]
    if not bad:
        return
    step, rank, loss = min(bad)
    what = f"the training loss became {loss} in epoch {epoch + 1}, batch {step + 1}"
    mine = None
    if rank == _rank() and make is not None:
        mine = _keep(make(epoch * batches_per_epoch + step), epoch, step, loss, folder)
    kept: dict[str, Any] | None = gather_objects(mine)[rank]
    if kept is None:
        raise RunError(
            what, remedy="Look for extreme intensities, lower optimizer.lr, or set trainer.precision=32-true."
        )
    what += f" ({', '.join(kept['case'])}; intensities from {kept['low']:.4g} to {kept['high']:.4g})"
    remedy = (
        "Lower optimizer.lr or set trainer.precision=32-true, and run the same command with run=NAME or force=true."
    )
    if not kept["finite"]:
        remedy = "The images hold values that are no numbers: run segplan verify, mend them and run plan.py again."
    raise RunError(f"{what}; the batch is kept", folder / BATCH_FILE, remedy)


def _keep(batch: Mapping[str, Any], epoch: int, step: int, loss: float, folder: Path) -> dict[str, Any]:
    """Write the batch, and return what is said of it."""
    image = batch["image"].detach().float().cpu()
    content = {
        "image": image,
        "labels": batch["labels"].detach().cpu(),
        "case": [str(case) for case in batch["case"]],
        "epoch": epoch + 1,
        "batch": step + 1,
        "loss": loss,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / BATCH_FILE) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    numbers = image[image.isfinite()]
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.numel() else (float("nan"), float("nan"))
    cases = list(dict.fromkeys(content["case"]))
    return {"case": cases, "low": low, "high": high, "finite": bool(image.isfinite().all())}


def _rank() -> int:
    return (
        torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
    )
