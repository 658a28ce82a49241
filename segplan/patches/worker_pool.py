"""Processes that make batches ahead of time, sample by sample, in an order that can be taken up at any batch."""

import contextlib
import functools
import logging
import math
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

from segplan.errors import WorkerError
from segplan.patches.dataset import PatchDataset
from segplan.patches.slots import BatchSlots, FreeSlots, SlotLayout, copied, lent
from segplan.patches.worker import NOTHING_YET, WorkerBoard, receive, work
from segplan.patches.workers import DeadWorker, worker_death
from segplan.preprocessing.control_groups import kills_for_memory

Batch = dict[str, Any]

SAMPLES_AHEAD = 2
"""How many samples a worker is given beyond those that training has asked for."""
_LENT_AT_MOST = 2  # batches that training may hold in shared memory: the one at work and the one before
_END_WITHIN_S = 3.0
_SAY_AFTER_S = 60.0

_log = logging.getLogger(__name__)


@dataclass
class _Job:
    """A batch in the making: its number, its slot, and per place what came beside the arrays."""

    number: int
    slot: int
    rest: list[dict[str, Any] | None]


class WorkerPool:
    """Makes the batches `first`, `first` + 1, … in processes of its own.

    The samples of a batch go to the workers in turn, so that all of them work on the batch that is wanted next, and
    memory does not grow with workers times batches.

    Args:
        dataset: makes the samples.
        indices_of: sample numbers of a batch, of this rank.
        samples: how many that are.
        num_workers: processes, at least one.
        start_method: fork, spawn or forkserver.
        pin_memory: hand out copies in page-locked memory, for a GPU; else batches are read where they were written.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        indices_of: Callable[[int], Sequence[int]],
        samples: int,
        *,
        num_workers: int,
        start_method: str,
        pin_memory: bool = False,
    ) -> None:
        self._dataset = dataset
        self._indices_of = indices_of
        self._pin_memory = pin_memory
        self.slots = BatchSlots(SlotLayout(dataset.array_layout, samples), slots_needed(num_workers, samples))
        self._board = WorkerBoard(num_workers)
        self._free = FreeSlots(self.slots.count)
        self._jobs: deque[_Job] = deque()
        self._by_slot: dict[int, _Job] = {}
        self._due = 0
        self._turn = 0
        self._kills = kills_for_memory()
        dataset.warm_up()  # before forking, so that workers share what it loads
        self.processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        context = _context(start_method)
        for number in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(  # type: ignore[attr-defined]
                target=work,
                args=(dataset, theirs, self.slots, self._board, number),
                name=f"segplan-loader-{number}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self._connections.append(ours)
        # Runs before multiprocessing asks its children to end, which workers would not listen to.
        self.close = Finalize(self, _end, (self.processes, self._connections, self._board), exitpriority=10)

    def start_at(self, number: int) -> None:
        """Go on with batch `number`; what is made already is thrown away."""
        while self._jobs:
            self._finish(self._jobs[0])
            self._free.give_back(self._take_first().slot)
        self._due = number
        self._hand_out()

    def fetch(self) -> Batch:
        """Return the next batch: arrays as tensors, what else the samples hold as lists.

        The tensors' memory is used again once none of them is left.

        Raises:
            WorkerError: a worker died.
        """
        self._hand_out()
        self._finish(self._jobs[0])
        dead = wait([process.sentinel for process in self.processes], timeout=0)
        if dead:
            raise self._death(self._of(dead))
        job = self._take_first()
        views = self.slots.views(job.slot)
        batch: Batch
        if self._pin_memory or self.slots.count - len(self._free) - len(self._jobs) > _LENT_AT_MOST:
            batch = dict(copied(views, self._pin_memory))
            self._free.give_back(job.slot)
        else:
            batch = dict(lent(views, functools.partial(self._free.give_back, job.slot)))
        samples = [rest for rest in job.rest if rest is not None]
        batch.update({key: [sample[key] for sample in samples] for key in samples[0]})
        self._hand_out()
        return batch

    def _hand_out(self) -> None:
        """Give the workers as many batches as there are free slots."""
        while len(self._free):
            indices = self._indices_of(self._due)
            job = _Job(self._due, self._free.take(), [None] * len(indices))
            self._jobs.append(job)
            self._by_slot[job.slot] = job
            self._due += 1
            for place, index in enumerate(indices):
                with contextlib.suppress(OSError):  # the worker has died; its end is noticed where results are read
                    self._connections[self._turn].send((job.slot, place, index))
                self._turn = (self._turn + 1) % len(self.processes)

    def _finish(self, job: _Job) -> None:
        """Receive results until the job is complete."""
        said_at = time.monotonic() + _SAY_AFTER_S
        sentinels = [process.sentinel for process in self.processes]
        while any(rest is None for rest in job.rest):
            ready = wait([*self._connections, *sentinels], timeout=_SAY_AFTER_S)
            for connection in ready:
                if isinstance(connection, Connection):
                    self._receive(connection)
            dead = [sentinel for sentinel in ready if not isinstance(sentinel, Connection)]
            if dead:
                raise self._death(self._of(dead))
            if time.monotonic() > said_at:
                _log.warning("waiting for samples since %.0f s: %s", _SAY_AFTER_S, self._whereabouts())
                said_at = time.monotonic() + _SAY_AFTER_S

    def _receive(self, connection: Connection) -> None:
        try:
            slot, place, answer = receive(connection)
        except (EOFError, OSError) as error:
            raise self._death(self._connections.index(connection)) from error
        if isinstance(answer, Exception):
            raise answer
        self._by_slot[slot].rest[place] = answer

    def _take_first(self) -> _Job:
        job = self._jobs.popleft()
        del self._by_slot[job.slot]
        return job

    def _of(self, sentinels: Iterable[Any]) -> int:
        """Number of the worker with the first of these sentinels."""
        first = next(iter(sentinels))
        return next(number for number, process in enumerate(self.processes) if process.sentinel == first)

    def _death(self, number: int) -> WorkerError:
        process = self.processes[number]
        process.join(_END_WITHIN_S)
        note = self._board.read(number)
        dead = DeadWorker(
            number=number,
            pid=process.pid,
            exit_code=process.exitcode,
            case=None if note.index == NOTHING_YET else self._dataset.case_of(note.index),
            is_done=note.is_done,
            memory=note.memory,
            is_killed_for_memory=kills_for_memory() > self._kills,
        )
        error = worker_death(dead, len(self.processes))  # before the others end and give their memory back
        for other in self.processes:
            other.kill()
        return error

    def _whereabouts(self) -> str:
        notes = [self._board.read(number) for number in range(len(self.processes))]
        return ", ".join(
            f"loader worker {number} (pid {process.pid}) at {self._dataset.case_of(note.index)}"
            for number, (process, note) in enumerate(zip(self.processes, notes, strict=True))
            if not note.is_done and note.index != NOTHING_YET
        )


def slots_needed(num_workers: int, samples: int) -> int:
    """Batches of `samples` in shared memory: those that are made ahead, and those that training holds."""
    return math.ceil(num_workers * SAMPLES_AHEAD / samples) + _LENT_AT_MOST


def _context(start_method: str) -> BaseContext:
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        # The server loads torch and the compiled warp once; its workers are forked from it and share them.
        context.set_forkserver_preload(["segplan.patches.worker", "segplan.augmentation.warp"])
    return context


def _end(processes: Sequence[BaseProcess], connections: Sequence[Connection], board: WorkerBoard) -> None:
    """End the workers: after the sample that each is at or, if that takes long, at once."""
    board.end()
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.send(None)
    give_up_at = time.monotonic() + _END_WITHIN_S
    for process in processes:
        process.join(max(0.0, give_up_at - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
    for connection in connections:
        connection.close()
