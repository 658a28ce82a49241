"""What a loader process does: make samples that it is told the numbers of, and write them where training reads them."""

import contextlib
import ctypes
import os
import pickle
import signal
import sys
import traceback
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.heap import Arena
from typing import Any

import numpy as np
import torch

from segplan.errors import SegplanError
from segplan.patches.dataset import PatchDataset
from segplan.patches.slots import BatchSlots, anonymous_memory

NOTHING_YET = -1
_PARENT_LOOKED_FOR_EVERY_S = 2.0
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_KEPT_BYTES = 2**30


@dataclass(frozen=True)
class Note:
    """What a worker noted last.

    Args:
        index: sample number; `NOTHING_YET` before the first.
        memory: bytes of its own when it began with it.
        is_done: it has finished that sample.
    """

    index: int
    memory: int
    is_done: bool


class WorkerBoard:
    """Shared memory in which workers note what they are at, and are told to end. Picklable for a starting process.

    Args:
        num_workers: how many there are.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._arena: Arena = anonymous_memory((1 + num_workers) * 3 * 8)
        self._rows[:] = NOTHING_YET

    @property
    def _rows(self) -> np.ndarray:
        """(1 + num_workers, 3): a row for the order to end, then one a worker."""
        return np.frombuffer(self._arena.buffer, np.int64, (1 + self.num_workers) * 3).reshape(-1, 3)

    def write(self, worker: int, note: Note) -> None:
        """Write down what a worker is at."""
        self._rows[1 + worker] = note.index, note.memory, note.is_done

    def read(self, worker: int) -> Note:
        """Return what a worker wrote last."""
        index, memory, is_done = self._rows[1 + worker].tolist()
        return Note(index, max(memory, 0), is_done > 0)

    def end(self) -> None:
        """Tell the workers to end after the sample that they are at."""
        self._rows[0] = 1

    @property
    def is_ended(self) -> bool:
        """Whether they have been told to end."""
        return bool(self._rows[0, 0] != NOTHING_YET)


def work(dataset: PatchDataset, connection: Connection, slots: BatchSlots, board: WorkerBoard, number: int) -> None:
    """Answer (slot, place, index) with (slot, place, what of the sample is no array of the slot), until None comes.

    A sample that cannot be made is answered with (slot, place, exception).

    Args:
        dataset: makes the samples.
        connection: to the training process.
        slots: where the arrays go.
        board: where this worker notes what it is at.
        number: of this worker, from 0.
    """
    _leave_signals_to_parent()
    torch.set_num_threads(1)  # also makes sums the same in every process
    keep_freed_memory()
    parent = os.getppid()
    while not board.is_ended:
        if not connection.poll(_PARENT_LOOKED_FOR_EVERY_S):
            if os.getppid() != parent:
                return
            continue
        try:
            task: tuple[int, int, int] | None = connection.recv()
        except (EOFError, OSError):
            return
        if task is None:
            return
        slot, place, index = task
        note = Note(index, _own_memory(), is_done=False)
        board.write(number, note)
        answer = _answer(dataset, slots, slot, place, index)
        board.write(number, replace(note, is_done=True))
        with contextlib.suppress(OSError):  # training has ended; so does this worker at its next look
            send(connection, (slot, place, answer))


def keep_freed_memory() -> None:
    """Let malloc keep what is freed for the next sample, where the C library is glibc.

    By default it returns each large array to the system and gets it back page by page, zeroed anew: at 128³ with four
    channels that took 40 % of a sample's time.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _answer(dataset: PatchDataset, slots: BatchSlots, slot: int, place: int, index: int) -> Any:
    arrays = {key: torch.from_numpy(view[place]) for key, view in slots.views(slot).items()}
    try:
        sample = dataset.make(index, arrays or None)
    except (SegplanError, OSError, MemoryError) as error:
        return error
    except Exception:  # whatever it is, the training process is to raise it; not every exception can be pickled
        return RuntimeError(f"a loader process failed at sample {index}:\n{traceback.format_exc()}")
    return {key: value for key, value in sample.items() if key not in arrays}


def send(connection: Connection, message: Any) -> None:
    """Send a message, large arrays in it as they lie in memory.

    Not `Connection.send`: torch has taught it to pass tensors through /dev/shm.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    connection.send_bytes(pickle.dumps((len(buffers), head)))
    for buffer in buffers:
        connection.send_bytes(buffer.raw())


def receive(connection: Connection) -> Any:
    """Receive what `send` sent.

    Raises:
        EOFError: the other end is closed.
    """
    count, head = pickle.loads(connection.recv_bytes())  # noqa: S301 (from our own child)
    return pickle.loads(head, buffers=[bytearray(connection.recv_bytes()) for _ in range(count)])  # noqa: S301


def _own_memory() -> int:
    import psutil

    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _leave_signals_to_parent() -> None:
    """Ctrl-C and a scheduler's signals reach every process of a job; training decides when its workers end."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # A forked worker inherits torch's handler where another library made a DataLoader.
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
