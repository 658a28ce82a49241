"""Loader processes: how many, and what is said when one dies."""

import shutil
import signal
from pathlib import Path

from segplan.errors import WorkerError
from segplan.preprocessing import available_cpus

_MAX_WORKERS = 8
_GB = 1e9


def auto_num_workers(accelerator: str, devices: int = 1) -> tuple[int, str]:
    """Choose the number of loader processes of one training process.

    Args:
        accelerator: what computes: "cpu", "cuda", "mps" …
        devices: training processes on this machine, which share its cores.

    Returns:
        the number, and its reason in a few words.
    """
    cpus = available_cpus()
    if accelerator == "cpu":
        # A patch costs little beside a training step on a CPU; a second loader would only take cores from the network.
        workers = min(1, cpus - 1)
        return workers, f"{_count(workers)}: the network computes on the {cpus} CPUs"
    workers = max(1, min(_MAX_WORKERS, (cpus - devices) // devices))
    share = f" for {devices} devices" if devices > 1 else ""
    return workers, f"{_count(workers)}: {cpus} CPUs{share}, one a device kept free"


def worker_death(pid: int | None, exit_code: int | None, num_workers: int) -> WorkerError:
    """Describe the death of a loader process.

    Args:
        pid: its process number.
        exit_code: as `multiprocessing` gives it, the negative number of the signal that killed it.
        num_workers: how many there were.
    """
    is_killed = exit_code is not None and exit_code < 0
    end = f"was killed by {signal.Signals(-(exit_code or 0)).name}" if is_killed else f"ended with code {exit_code}"
    return WorkerError(
        f"loader process {pid} {end} ({_memory()})",
        where="training data",
        remedy=f"If memory or /dev/shm ran out, use data.num_workers={max(num_workers - 1, 0)} (now {num_workers}).",
    )


def _count(workers: int) -> str:
    return f"{workers} loader process{'' if workers == 1 else 'es'}"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    text = f"free memory {memory.available / _GB:.1f} of {memory.total / _GB:.1f} GB"
    shared = Path("/dev/shm")  # noqa: S108 (looked at, not written)
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        text += f", /dev/shm {usage.free / _GB:.2f} of {usage.total / _GB:.2f} GB"
    return text
