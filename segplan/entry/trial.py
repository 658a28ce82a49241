"""One trial of a search: a training that is watched through its metrics.csv and may be cut short."""

import csv
import json
import math
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segplan.entry.environment import child_environment

WHOLE_CASES = "dice"
"""The objective that is the mean Dice of the fold's whole validation cases."""
_LOOK_EVERY_S = 0.5
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Ending:
    """How a trial ended.

    Args:
        code: the training's exit code; 0 where it was cut short.
        value: of the objective, if it ran to its end.
        is_pruned: whether it was cut short.
        was_stopped: whether a signal from outside ended it; the same command goes on then.
    """

    code: int
    value: float | None = None
    is_pruned: bool = False
    was_stopped: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether it ran to an end that says nothing about its values."""
        return not (self.is_pruned or self.was_stopped) and (self.code != 0 or self.value is None)


def run_trial(
    command: Sequence[str], folder: Path, watch: str, objective: str, is_hopeless: Callable[[int, float], bool]
) -> Ending:
    """Train and return how that ended.

    Args:
        command: the training.
        folder: RUN/fold_K.
        watch: the column of metrics.csv that is watched.
        objective: "dice", or a column of metrics.csv.
        is_hopeless: told (epoch, value) of each epoch in order; true cuts the trial short.
    """
    process = subprocess.Popen(list(command), env=child_environment())
    pruned = told = False
    seen = 0
    try:
        while process.poll() is None:
            time.sleep(_LOOK_EVERY_S)
            rows = metric_rows(folder / "metrics.csv", watch)
            for epoch, value in rows[seen:]:
                if not pruned and is_hopeless(epoch, value):
                    pruned = True
                    process.terminate()  # it saves and leaves
            seen = len(rows)
            if not rows and not told and (known := columns(folder / "metrics.csv")) and watch not in known:
                told = True
                print(
                    f"metrics.csv has no column {watch}: no trial is cut short. It has {', '.join(known)}", flush=True
                )
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reaches it too
        return Ending(process.returncode, was_stopped=True)
    if pruned:
        return Ending(0, is_pruned=True)
    code = process.returncode
    if code in _STOPPED or code < 0:
        return Ending(abs(code), was_stopped=True)
    return Ending(code, _value(folder, objective) if code == 0 else None)


def metric_rows(path: Path, column: str) -> list[tuple[int, float]]:
    """(epoch, value) of each row of metrics.csv that has the column; a row being written is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    whole = text[: text.rfind("\n") + 1].splitlines()
    found = []
    for row in csv.DictReader(whole):
        try:
            epoch, value = int(row["epoch"]), float(row[column])
        except (KeyError, TypeError, ValueError):
            continue
        if not math.isnan(value):
            found.append((epoch, value))
    return found


def columns(path: Path) -> list[str]:
    """The columns of metrics.csv; none before its first row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])
    except OSError:
        return []


def _value(folder: Path, objective: str) -> float | None:
    if objective != WHOLE_CASES:
        rows = metric_rows(folder / "metrics.csv", objective)
        return rows[-1][1] if rows else None
    try:
        summary = json.loads((folder / "validation" / "summary.json").read_text(encoding="utf-8"))
        value = float(summary["foreground_mean"]["Dice"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if math.isnan(value) else value
