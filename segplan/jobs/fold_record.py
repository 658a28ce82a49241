"""What a training says of itself while it runs and when it ends: RUN/fold_K/attempt.json, for `segplan jobs`.

The process that trains writes where it runs when it starts, touches the file every minute, and writes how it ended. One
that is killed writes nothing more: on the same machine its process is gone, elsewhere the file is not touched again.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from segplan.errors import RunError, SegplanError, StorageError
from segplan.imaging import atomic_write

RECORD_FILE = "attempt.json"
TOUCHED_EVERY_SECONDS = 60.0
SILENT_AFTER_SECONDS = 5 * TOUCHED_EVERY_SECONDS
_LONGEST_ERROR = 2000
_SIGNAL_CODES = 128  # a shell's exit code for a process that a signal ended, less the signal's number


@dataclass(frozen=True)
class Attempt:
    """One start of a fold's training.

    Args:
        machine: host name, and the process namespace where the system has them: process ids mean something only there.
        process: its id.
        born: when the process started, in the system's ticks; None where the system does not tell. Ids are used again.
        slurm_job: its id, or None.
        exit_code: None while it runs.
        error: the last message of one that failed.
    """

    machine: str
    process: int
    born: int | None = None
    slurm_job: str | None = None
    exit_code: int | None = None
    error: str | None = None

    @property
    def stopped_by(self) -> str | None:
        """The signal that it obeyed and saved for, or None."""
        if self.exit_code is None or self.exit_code <= _SIGNAL_CODES:
            return None
        with suppress(ValueError):
            return signal.Signals(self.exit_code - _SIGNAL_CODES).name
        return None

    @property
    def host(self) -> str:
        """Name of the machine."""
        return self.machine.partition(" ")[0]


class AttemptNotes:
    """What the training that is recorded adds to its record."""

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def ends_with(self, exit_code: int) -> int:
        """Note the exit code, and return it."""
        self.exit_code = exit_code
        return exit_code


@contextmanager
def recorded(folder: Path) -> Iterator[AttemptNotes]:
    """Record in RUN/fold_K that this process trains it, until the block ends; an error is recorded and passed on.

    Only the first process of several writes. A folder that cannot be written is none of its business: training says so.

    Raises:
        RunError: a process that is alive trains this fold.
    """
    notes = AttemptNotes()
    if not _is_first_process():
        yield notes
        return
    path = folder / RECORD_FILE
    attempt = this_process()
    before = read_attempt(folder)
    if before is not None and before.exit_code is None and before.process != attempt.process and is_alive(before):
        what = f"process {before.process} trains this fold right now"
        raise RunError(what, folder, "Wait for it or end it (kill -TERM saves); use run=NAME for another run.")
    _write(path, attempt)
    ended = threading.Event()
    heart = threading.Thread(target=_touch, args=(path, ended), daemon=True)
    heart.start()
    try:
        yield notes
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        attempt = replace(attempt, exit_code=_SIGNAL_CODES + signal.SIGINT if interrupted else 1, error=_message(error))
        raise
    else:
        attempt = replace(attempt, exit_code=0 if notes.exit_code is None else notes.exit_code)
    finally:
        ended.set()
        _write(path, attempt)


def read_attempt(folder: Path) -> Attempt | None:
    """The record in RUN/fold_K; None if there is none that can be read."""
    try:
        return Attempt(**json.loads((folder / RECORD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_alive(attempt: Attempt) -> bool | None:
    """Whether the process runs; None if it is another machine's, or the system does not tell."""
    here = this_process()
    if attempt.machine != here.machine or here.born is None or attempt.born is None:
        return None
    return _born(attempt.process) == attempt.born


def seconds_silent(folder: Path) -> float:
    """How long ago the record was touched."""
    return max(0.0, time.time() - (folder / RECORD_FILE).stat().st_mtime)


def this_process() -> Attempt:
    """The record of the process that asks."""
    try:
        namespace = f" {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        namespace = ""
    job = os.environ.get("SLURM_JOB_ID")
    return Attempt(f"{socket.gethostname()}{namespace}", os.getpid(), _born(os.getpid()), job)


def _born(process: int) -> int | None:
    """When a living process started, in ticks since the system did; None if it is dead or the system does not tell."""
    try:
        # The command's name, in brackets, may hold anything; what comes after it is separated by spaces.
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _is_first_process() -> bool:
    given = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((value for value in given if value), "0") == "0"


def _touch(path: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCHED_EVERY_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _write(path: Path, attempt: Attempt) -> None:
    with suppress(OSError, SegplanError), atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(attempt), indent=1) + "\n", encoding="utf-8")


def _message(error: BaseException) -> str:
    if isinstance(error, OSError):
        error = StorageError.from_os_error(error) or error
    text = str(error).strip() or type(error).__name__
    return (text if isinstance(error, SegplanError) else f"{type(error).__name__}: {text}")[:_LONGEST_ERROR]
