"""Running a function over many items in processes, where a process may die without taking the rest with it.

`concurrent.futures` gives up the whole pool when one worker is killed (out of memory, a crash in a reader) and does not
say which item it was. Here every worker has one item at a time and a pipe of its own, so a death names its item.
"""

import importlib
import math
import multiprocessing
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from segplan.errors import SegplanError, WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE_S = 5.0
_FEWER_WORKERS = "Use fewer workers (num_workers=1), or a machine with more memory"


def run_parallel(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_workers: int,
    describe: Callable[[Item], str] = str,
    preload: Sequence[str] = (),
    *,
    costs: Sequence[float] | None = None,
    budget: float = math.inf,
) -> Generator[tuple[Item, Result | SegplanError], None, None]:
    """Apply `function` to every item and hand the results out as they come.

    The workers start at once, not when the first result is asked for: call this before anything that starts threads
    (a progress bar, say) or imports torch, and they start by a mere fork (see `_context`).

    Args:
        function: importable by name (a module's function, or a `functools.partial` of one).
        items: picklable; begun in this order, or the dearest first where `costs` are given.
        num_workers: processes; 1 or less runs in this process.
        describe: names an item in error messages.
        preload: modules that the function needs, imported once instead of once a worker.
        costs: one an item (bytes, say). Items at work together cost at most `budget`; one that alone costs more is
            worked on alone.
        budget: see `costs`.

    Returns:
        Generator of (item, result), in order of completion. In place of the result stands an error where the function
        raised a `SegplanError`, and a `WorkerError` where it failed in another way or its process died. All workers end
        with it, also when it is closed or interrupted; whoever may leave early closes it (`contextlib.closing`).
    """
    for module in preload:
        importlib.import_module(module)
    queue = list(items)
    jobs = [_Job(item, cost) for item, cost in zip(queue, costs or [0.0] * len(queue), strict=True)]
    jobs.sort(key=lambda job: -job.cost)  # stable: equal costs stay in order
    if num_workers <= 1:
        return ((job.item, _outcome(function, job.item, describe(job.item))) for job in jobs)
    return _Pool(function, describe, preload, min(num_workers, len(jobs)), budget).run(jobs)


@dataclass(frozen=True)
class _Job:
    item: Any
    cost: float


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: _Job | None = None


class _Pool(Generic[Item, Result]):
    """Workers, each with a pipe and at most one item."""

    def __init__(
        self,
        function: Callable[[Item], Result],
        describe: Callable[[Item], str],
        preload: Sequence[str],
        num_workers: int,
        budget: float,
    ) -> None:
        self._budget = budget
        self._function = function
        self._describe = describe
        self._preload = preload
        self._num_workers = num_workers
        self._workers: dict[Connection, _Worker] = {}
        for _ in range(num_workers):
            self._start()

    def run(self, jobs: Sequence[_Job]) -> Generator[tuple[Item, Result | SegplanError], None, None]:
        """Feed the workers until all is done; one that died is replaced while there is work for it."""
        waiting = list(jobs)
        try:
            while True:
                self._feed(waiting)
                busy = [pipe for pipe, worker in self._workers.items() if worker.job is not None]
                if not busy:
                    return
                for pipe in wait(busy):
                    worker = self._workers[pipe]  # type: ignore[index]  # wait returns what it was given
                    yield self._receive(worker)
        finally:
            self._stop()

    def _feed(self, waiting: list[_Job]) -> None:
        """Give each idle worker the first waiting job that the budget still holds; let it go if nothing waits."""
        while len(self._workers) < min(self._num_workers, len(waiting)):
            self._start()
        at_work = [worker.job.cost for worker in self._workers.values() if worker.job is not None]
        for worker in [worker for worker in self._workers.values() if worker.job is None]:
            left = self._budget - sum(at_work)
            fitting = (number for number, job in enumerate(waiting) if job.cost <= left or not at_work)
            number = next(fitting, None)
            if number is not None:
                at_work.append(waiting[number].cost)
                self._give(worker, waiting.pop(number))
            elif not waiting:
                self._dismiss(worker)

    def _start(self) -> _Worker:
        context = _context(self._function.__module__, self._preload)
        ours, theirs = context.Pipe()
        # A forked child inherits the parent's ends of all pipes. It must close them: while it holds one, that worker
        # does not see that the parent is gone.
        inherited = [*self._workers, ours] if context.get_start_method() == "fork" else []
        process = context.Process(target=_work, args=(self._function, theirs, inherited), daemon=True)
        process.start()
        theirs.close()
        worker = self._workers[ours] = _Worker(process, ours)
        return worker

    def _give(self, worker: _Worker, job: _Job) -> None:
        worker.job = job
        # A worker that died while idle has closed its end of the pipe, which `run` notices next.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send((job.item, self._describe(job.item)))

    def _receive(self, worker: _Worker) -> tuple[Item, Result | SegplanError]:
        """A worker's item with its outcome; the worker is idle then, or gone."""
        job, worker.job = worker.job, None
        if job is None:
            raise RuntimeError("a worker without work has answered")
        try:
            return job.item, pickle.loads(worker.pipe.recv_bytes())  # noqa: S301  from our own child process
        except (EOFError, OSError):
            self._dismiss(worker)
            return job.item, _death(worker.process.exitcode, self._describe(job.item))

    def _dismiss(self, worker: _Worker) -> None:
        """Let a worker end: it sees that its pipe is closed."""
        del self._workers[worker.pipe]
        worker.pipe.close()
        worker.process.join(_PATIENCE_S)

    def _stop(self) -> None:
        workers = list(self._workers.values())
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            self._dismiss(worker)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()


def _context(module: str, preload: Sequence[str]) -> ForkContext | ForkServerContext:
    """How to start a worker.

    A fork costs milliseconds and shares what is imported, but copies locks that other threads hold at that moment, and
    OpenMP (torch) does not survive it. So where there are threads or torch, workers are forked from a fresh server
    process, which imports `preload` once.
    """
    if sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules:
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", module, *preload])
    return context


def _work(function: Callable[[Any], Any], pipe: Connection, inherited: Sequence[Connection]) -> None:
    """A worker's life: an item in, its outcome out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    while True:
        try:
            item, name = pipe.recv()
        except EOFError:
            return
        pipe.send_bytes(_pickled(_outcome(function, item, name), name))


def _outcome(function: Callable[[Any], Result], item: Any, name: str) -> Result | SegplanError:
    """The function's result, or what went wrong as an error that names the item."""
    try:
        return function(item)
    except SegplanError as error:
        return error
    except MemoryError:
        return WorkerError("not enough memory", name, _FEWER_WORKERS)
    except Exception as error:
        # One item's failure must not end the others. It is handed on with its traceback, not hidden.
        remedy = f"This looks like a defect of segplan:\n{traceback.format_exc()}"
        return WorkerError(f"{type(error).__name__}: {error}", name, remedy)


def _pickled(outcome: Any, name: str) -> bytes:
    """The outcome for the pipe. An error is tried out, since one that cannot be unpickled would fail in the parent."""
    try:
        content = pickle.dumps(outcome)
        if isinstance(outcome, SegplanError):
            pickle.loads(content)  # noqa: S301  made in the line above
        return content
    except Exception:
        what = str(outcome) if isinstance(outcome, SegplanError) else f"a {type(outcome).__name__} cannot be pickled"
        return pickle.dumps(WorkerError(what, name))


def _death(exitcode: int | None, name: str) -> WorkerError:
    """What became of a worker that closed its pipe without an answer."""
    if exitcode is None or exitcode >= 0:
        return WorkerError(f"the worker ended with exit code {exitcode}", name, "See its message above")
    if -exitcode == signal.SIGKILL:
        return WorkerError("the worker was killed (SIGKILL), most likely for lack of memory", name, _FEWER_WORKERS)
    try:
        how = signal.Signals(-exitcode).name
    except ValueError:
        how = f"signal {-exitcode}"
    return WorkerError(f"the worker crashed ({how})", name, "Check this case's files, or leave the case out")
