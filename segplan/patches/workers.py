"""Loader processes: how many and how they are started, and what is said when one dies."""

import signal
import sys
from dataclasses import dataclass

from segplan.errors import ConfigError, WorkerError
from segplan.patches.memory import memory_text, size_text
from segplan.preprocessing import available_cpus
from segplan.preprocessing.control_groups import available_memory

_MAX_WORKERS = 8
_WORKER_BYTES = 300_000_000  # of a process that has loaded torch and the compiled warp and shares none of it
_SAMPLES_HELD = 8  # while one is made: what is read, what transforms keep beside it, and what waits in shared memory
_SHARE_OF_MEMORY = 0.5

_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE")


@dataclass(frozen=True)
class DeadWorker:
    """A loader process that ended before its time.

    Args:
        number: of the worker, from 0.
        pid: its process number.
        exit_code: as `multiprocessing` gives it, the negative number of the signal that killed it.
        case: the case that it was at; None before its first.
        is_done: it had finished that case's sample and waited for the next.
        memory: bytes of its own when it began with that case.
        is_killed_for_memory: the control group counts a kill for lack of memory since the workers were started.
    """

    number: int
    pid: int | None
    exit_code: int | None
    case: str | None
    is_done: bool
    memory: int
    is_killed_for_memory: bool = False


def auto_num_workers(accelerator: str, devices: int = 1, sample_bytes: int = 0) -> tuple[int, str]:
    """Choose the number of loader processes of one training process.

    Args:
        accelerator: what computes: "cpu", "cuda", "mps" …
        devices: training processes on this machine, which share its cores and its memory.
        sample_bytes: of the arrays of one sample.

    Returns:
        the number, and its reason in a few words.
    """
    cpus = available_cpus()
    if accelerator == "cpu":
        # A patch costs little beside a training step on a CPU; a second loader would only take cores from the network.
        workers = min(1, cpus - 1)
        reason = f"{_count(workers)}: the network computes on the {cpus} CPUs"
    else:
        workers = max(1, min(_MAX_WORKERS, (cpus - devices) // devices))
        share = f" for {devices} devices" if devices > 1 else ""
        reason = f"{_count(workers)}: {cpus} CPUs{share}, one a device kept free"
    available = available_memory()
    each = _WORKER_BYTES + _SAMPLES_HELD * sample_bytes
    fitting = int(_SHARE_OF_MEMORY * available / (each * devices))
    if fitting < workers:
        reason = f"{_count(fitting)}: each needs about {size_text(each)} and {size_text(available)} of memory are free"
    return min(workers, fitting), reason


def choose_start_method(asked: str) -> str:
    """Return how processes are started: fork where the system has it safely, else spawn.

    A forked worker is there at once and shares what training has loaded; the others load torch anew, but inherit no
    threads and no CUDA state.

    Raises:
        ConfigError: there is no such method, or not on this system.
    """
    import multiprocessing

    known = ("auto", *multiprocessing.get_all_start_methods())
    if asked not in known:
        raise ConfigError(
            f"{asked!r} starts no process here", "data.start_method", f"Use {', '.join(known[:-1])} or {known[-1]}."
        )
    if asked != "auto":
        return asked
    return "fork" if sys.platform == "linux" else "spawn"


def worker_death(dead: DeadWorker, num_workers: int) -> WorkerError:
    """Describe the death of a loader process.

    Args:
        dead: what is known of it.
        num_workers: how many there were.
    """
    doing = f"{'after' if dead.is_done else 'while'} reading {dead.case} ({size_text(dead.memory)})"
    if dead.case is None:
        doing = "before its first case"
    if num_workers > 1:
        remedy = f"Use data.num_workers={num_workers // 2} (now {num_workers})."
    else:
        remedy = "Use data.num_workers=0 (now 1), a smaller data.patch_size, or a machine with more memory."
    if dead.exit_code is None or dead.exit_code >= 0 or -dead.exit_code not in (signal.SIGKILL, signal.SIGBUS):
        remedy = "The same command goes on from what is saved; data.num_workers=0 shows an error where it happens."
    return WorkerError(
        f"loader worker {dead.number} (pid {dead.pid}) {_end_of(dead)} {doing}; {memory_text()}", remedy=remedy
    )


def _end_of(dead: DeadWorker) -> str:
    if dead.exit_code is None or dead.exit_code >= 0:
        return f"ended with code {dead.exit_code}"
    name = signal.Signals(-dead.exit_code).name
    if name in _CRASHES:
        return f"crashed ({name})"
    if name != "SIGKILL":
        return f"was ended ({name})"
    return f"was killed by the system for memory ({name})" if dead.is_killed_for_memory else f"was killed ({name})"


def _count(workers: int) -> str:
    return f"{workers} loader process{'' if workers == 1 else 'es'}"
