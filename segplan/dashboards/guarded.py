"""A Lightning logger that hands everything to a thread, so that no dashboard can stop or slow a training.

What cannot be sent is kept and tried again; what is beyond the queue's length is dropped. Trouble is told once.
"""

import math
import os
import sys
import threading
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from segplan.dashboards.kinds import Dashboard

_THREAD_PREFIX = "segplan dashboard "
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_TRIES = 3  # of one entry, where others got through meanwhile: then it is the entry that cannot be sent


class GuardedLogger(Logger):
    """Sends to one dashboard, from a thread that starts with the first metrics.

    Args:
        name: the dashboard's name, for messages.
        open_dashboard: connects; called in the thread, again after a failure.
        enabled: false on all ranks but the first.
        queue_size: entries that are kept while the dashboard does not answer; further ones are dropped.
        close_s: seconds that the end of a training waits for what is not sent yet.
    """

    def __init__(
        self,
        name: str,
        open_dashboard: Callable[[], Dashboard],
        *,
        enabled: bool = True,
        queue_size: int = 10_000,
        close_s: float = 30.0,
    ) -> None:
        super().__init__()
        self.lost = 0
        self._name, self._open, self._enabled = name, open_dashboard, enabled
        self._queue_size, self._close_s = queue_size, close_s
        self._entries: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._status = "success"
        self._thread: threading.Thread | None = None
        self._told: set[str] = set()

    @property
    def name(self) -> str:
        """The dashboard's name."""
        return self._name

    @property
    def version(self) -> str:
        """Lightning asks for one; runs go by folders here."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send values of one step; what is no number leaves a gap."""
        known = {key: float(value) for key, value in metrics.items() if not math.isnan(value)}
        at = None if step is None else int(step)
        self._put(lambda dashboard: dashboard.metrics(known, at))
        # Not before: a loader process that is forked while a thread is at work may inherit a lock that nobody frees.
        self._start()

    def log_beginning(self, step: int) -> None:
        """Say where the training (re)starts: what was sent of later steps does not hold any longer."""
        self._put(lambda dashboard: dashboard.begins(step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Send settings as flat `key: value`."""
        values = dict(vars(params)) if isinstance(params, Namespace) else dict(params)
        if values:
            self._put(lambda dashboard: dashboard.parameters(values))

    def log_file(self, path: Path) -> None:
        """Send a text file, as it is when it is sent."""
        self._put(lambda dashboard: dashboard.file(path))

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Send the picture at `path` as the next one of those called `name`."""
        self._put(lambda dashboard: dashboard.picture(name, path, step))

    def log_rows(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Send a table."""
        self._put(lambda dashboard: dashboard.table(name, header, rows))

    def finalize(self, status: str) -> None:
        """Lightning calls this when training ends; whole cases are still to be evaluated, so `close` ends the run."""
        if status != "success":
            self._status = status

    def close(self, status: str | None = None) -> None:
        """Send what is left and end the dashboard's run; waits `close_s` seconds at most.

        Args:
            status: success or failed; None: what Lightning told. A training that failed does not wait long.
        """
        with self._changed:
            self._status = status or self._status
            if self._entries and self._enabled:
                self._start()
            self._closing = True
            self._changed.notify()
        if self._thread is None:
            return
        self._thread.join(self._close_s if self._status == "success" else min(5.0, self._close_s))
        left = len(self._entries) + self.lost
        if left or self._thread.is_alive():
            self._say("left", f"{left} entries were not sent; metrics.csv has every epoch")

    def _start(self) -> None:
        if self._thread is None and self._enabled and not self._closing:
            # A daemon: it may be stuck in a connection when the process ends.
            self._thread = threading.Thread(target=self._work, name=f"{_THREAD_PREFIX}{self._name}", daemon=True)
            self._thread.start()

    def _put(self, send: "Callable[[Dashboard], None]") -> None:
        if not self._enabled or self._closing:
            return
        with self._changed:
            if len(self._entries) < self._queue_size:
                self._entries.append(_Entry(send))
                self._changed.notify()
            else:
                self.lost += 1

    def _work(self) -> None:
        dashboard: Dashboard | None = None
        succeeded = failed_in_a_row = 0
        while (entry := self._next()) is not None:
            try:
                dashboard = dashboard or self._open()
                entry.send(dashboard)
            except Exception as error:
                # Whatever a tracker raises, the training must not know.
                failed_in_a_row += 1
                self._say("trouble", f"{_one_line(error)}; training goes on, and metrics.csv has every epoch")
                self._keep_or_drop(entry, succeeded)
                self._wait(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (failed_in_a_row - 1)))
            else:
                if failed_in_a_row:
                    self._say("again", "answers again")
                succeeded += 1
                failed_in_a_row = 0
        if dashboard is not None:
            try:
                dashboard.close(self._status)
            except Exception as error:
                self._say("trouble", _one_line(error))

    def _next(self) -> "_Entry | None":
        """The next entry; None when there is none and none will come."""
        with self._changed:
            while not self._entries and not self._closing:
                self._changed.wait()
            return self._entries.popleft() if self._entries else None

    def _keep_or_drop(self, entry: "_Entry", succeeded: int) -> None:
        entry.tries += 1
        if entry.tries == 1:
            entry.succeeded_before = succeeded
        at_fault = entry.tries >= _TRIES and succeeded > entry.succeeded_before
        with self._changed:
            if self._closing or at_fault:
                self.lost += 1
            else:
                self._entries.append(entry)  # at the end: another one shows whether it is this one's fault

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while not self._closing and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            sys.stderr.write(f"segplan: dashboard {self._name}: {text}\n")


class _Entry:
    """Something to be sent, and how often that failed."""

    def __init__(self, send: Callable[[Dashboard], None]) -> None:
        self.send = send
        self.tries = self.succeeded_before = 0


def leave_threads_behind(code: int) -> int:
    """Return `code`, or leave at once where a dashboard is stuck: its exit hook might wait for its server for ever."""
    if any(thread.name.startswith(_THREAD_PREFIX) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _one_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}"
