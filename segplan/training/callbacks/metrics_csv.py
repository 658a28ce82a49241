"""metrics.csv: one row an epoch, whatever interrupts the run."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl

from segplan.errors import StorageError
from segplan.imaging import atomic_write
from segplan.training.module import SegmentationModule


class MetricsCSV(pl.Callback):
    """Appends a row of `SegmentationModule.epoch_summary` after each epoch.

    Args:
        path: the file. On resuming, rows beyond the checkpoint's step, and a row cut off by a crash, are dropped first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows of the epochs that the resumed state has behind it."""
        if trainer.is_global_zero and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file)) or [[]]  # a label's name may hold a comma
            whole = [row for row in rows if len(row) == len(header) > 1 and row[1].isdigit()]
            kept = [row for row in whole if int(row[1]) <= trainer.global_step]
            with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *kept] if header else [])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Append the epoch's row."""
        if not isinstance(pl_module, SegmentationModule):
            return
        row = pl_module.epoch_summary()  # on every rank: it gathers their counts
        if not trainer.is_global_zero:
            return
        try:
            self._append(row)
        except OSError as error:
            trouble = StorageError.from_os_error(error, self.path)
            if trouble is None:
                raise
            raise trouble from error

    def _append(self, row: Mapping[str, float]) -> None:
        fresh = not self.path.exists() or self.path.stat().st_size == 0
        columns = list(row) if fresh else self._take_columns(list(row))
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="nan")
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def _take_columns(self, wanted: Sequence[str]) -> list[str]:
        """Return the file's columns; those that an option adds since are put into the rows so far, filled with nan."""
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            there = list(reader.fieldnames or ())
            if set(wanted) <= set(there):
                return there
            columns = [*wanted, *(key for key in there if key not in wanted)]
            rows = [{key: old.get(key) or "nan" for key in columns} for old in reader]
        with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        return columns
