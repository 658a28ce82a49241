"""Batches of patches from worker processes, in an order that can be taken up at any batch."""

import contextlib
import itertools
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from segplan.errors import WorkerError
from segplan.patches.dataset import PatchDataset
from segplan.patches.workers import worker_death

Batch = dict[str, Any]
_PREFETCH = 2  # batches a worker prepares ahead


class BatchIndices(Sampler[list[int]]):
    """Endless lists of sample numbers: this rank's share of batch `start`, `start` + 1, …

    Args:
        batch_size: samples of a global batch.
        share: which of them are this rank's.
    """

    def __init__(self, batch_size: int, share: range) -> None:
        self.batch_size = batch_size
        self.share = share
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        for batch in itertools.count(self.start):
            yield [batch * self.batch_size + place for place in self.share]


class PatchLoader:
    """The loader of one stage: an iterable of known length, each pass an epoch or what is left of it.

    Its workers live as long as it does and work on across epochs, so that no epoch starts with a wait. It is no
    `DataLoader`, because Lightning replaces the samplers of those under DDP.

    Args:
        dataset: makes the samples.
        batch_size: samples of a global batch.
        share: which of them are this rank's.
        batches_per_epoch: batches of an epoch.
        next_batch: tells at the start of a pass which batch is due, counted from the start of training.
        num_workers: processes; 0 makes the samples in this one.
        pin_memory: copy batches to page-locked memory, for a GPU.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        *,
        batch_size: int,
        share: range,
        batches_per_epoch: int,
        next_batch: Callable[[], int],
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._indices = BatchIndices(batch_size, share)
        self._batches_per_epoch = batches_per_epoch
        self._next_batch = next_batch
        self._num_workers = num_workers
        self._loader: DataLoader[Batch] | None = DataLoader(
            dataset,
            batch_sampler=self._indices,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=_PREFETCH if num_workers else None,
            pin_memory=pin_memory,
        )
        self._stream: Iterator[Batch] | None = None
        self._workers: list[BaseProcess] = []
        self._position = 0

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        # Runs at the first request for a batch, not before: only then has Lightning restored its counters.
        due = self._next_batch()
        for _ in range(self._batches_per_epoch - due % self._batches_per_epoch):
            yield self._fetch(due)
            due += 1

    def close(self) -> None:
        """End the worker processes."""
        self._stream = None
        self._loader = None
        self._workers = []

    def state_dict(self) -> dict[str, int]:
        """Lightning asks resumable loaders for their state; ours follows from the trainer's own counters."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to restore, see `state_dict`."""

    def _fetch(self, number: int) -> Batch:
        """Return batch `number`; going on is cheap, going elsewhere discards what the workers have prepared.

        Raises:
            WorkerError: a worker process died.
        """
        if self._stream is None or self._position != number:
            self._stream = self._start(number)
        try:
            with _single_thread() if self._num_workers == 0 else contextlib.nullcontext():
                batch = next(self._stream)
        except (RuntimeError, OSError, EOFError) as error:
            # A dead worker shows as whichever of these: a broken connection, or torch's own check after 5 seconds.
            dead = wait([worker.sentinel for worker in self._workers], timeout=1) if self._workers else []
            for worker in self._workers:
                if worker.sentinel in dead:
                    raise self._death(worker) from error
            raise
        self._position += 1
        return batch

    def _start(self, number: int) -> Iterator[Batch]:
        if self._loader is None:
            raise RuntimeError("this loader has been closed")
        self._indices.start = self._position = number
        before = set(multiprocessing.active_children())
        with _signal_handler_kept():
            stream = iter(self._loader)
        self._workers += [child for child in multiprocessing.active_children() if child not in before]
        return stream

    def _death(self, worker: BaseProcess) -> WorkerError:
        worker.join()
        for other in self._workers:
            # They may wait for a lock that the dead one held, and would be waited for in turn.
            other.terminate()
        return worker_death(worker.pid, worker.exitcode, self._num_workers)


@contextlib.contextmanager
def _signal_handler_kept() -> Iterator[None]:
    """Undo torch's handler of SIGCHLD, which raises a worker's death in whatever this process is just doing.

    It may be writing a checkpoint; the death comes to light at the next batch anyway.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
    """Compute with one thread, as workers do: sums over several threads differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
