"""Batches of patches, in an order that can be taken up at any batch."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from segplan.patches.dataset import PatchDataset
from segplan.patches.worker_pool import WorkerPool

Batch = dict[str, Any]


class PatchLoader:
    """The loader of one stage: an iterable of known length, each pass an epoch or what is left of it.

    Its workers live as long as it does and work on across epochs, so that no epoch starts with a wait. It is no
    `DataLoader`: Lightning replaces the samplers of those under DDP, and theirs pass batches through /dev/shm.

    Args:
        dataset: makes the samples.
        batch_size: samples of a global batch.
        share: which of them are this rank's.
        batches_per_epoch: batches of an epoch.
        next_batch: tells at the start of a pass which batch is due, counted from the start of training.
        num_workers: processes; 0 makes the samples in this one.
        start_method: of the processes: fork, spawn or forkserver.
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
        start_method: str = "fork",
        pin_memory: bool = False,
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._share = share
        self._batches_per_epoch = batches_per_epoch
        self._next_batch = next_batch
        self._num_workers = num_workers
        self._start_method = start_method
        self._pin_memory = pin_memory
        self._pool: WorkerPool | None = None
        self._is_closed = False
        self._position = 0

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        # Runs at the first request for a batch, not before: only then has Lightning restored its counters.
        due = self._next_batch()
        for _ in range(self._batches_per_epoch - due % self._batches_per_epoch):
            yield self._fetch(due)
            due += 1

    @property
    def worker_pids(self) -> list[int]:
        """Process numbers of the workers; none before the first batch."""
        return [] if self._pool is None else [process.pid or 0 for process in self._pool.processes]

    def use(self, dataset: PatchDataset) -> None:
        """Take samples from another dataset from the next batch on."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._dataset = dataset

    def close(self) -> None:
        """End the worker processes."""
        self._is_closed = True
        if self._pool is not None:
            self._pool.close()
            self._pool = None

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
        if self._is_closed:
            raise RuntimeError("this loader has been closed")
        if self._num_workers == 0:
            return self.make(number)
        if self._pool is None:
            self._pool = WorkerPool(
                self._dataset,
                self._indices_of,
                len(self._share),
                num_workers=self._num_workers,
                start_method=self._start_method,
                pin_memory=self._pin_memory,
            )
            self._pool.start_at(number)
        elif self._position != number:
            self._pool.start_at(number)
        batch = self._pool.fetch()
        self._position = number + 1
        return batch

    def _indices_of(self, batch: int) -> list[int]:
        return [batch * self._batch_size + place for place in self._share]

    def make(self, number: int) -> Batch:
        """Make batch `number` in this process."""
        with _single_thread():
            samples = [self._dataset[index] for index in self._indices_of(number)]
        batch: Batch = {}
        for key, first in samples[0].items():
            values = [sample[key] for sample in samples]
            batch[key] = torch.stack(values) if isinstance(first, torch.Tensor) else values
            if self._pin_memory and isinstance(first, torch.Tensor):
                batch[key] = batch[key].pin_memory()
        return batch


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
    """Compute with one thread, as workers do: sums over several threads differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
