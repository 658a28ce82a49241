"""What a training uses of the machine: processors, memory, GPU."""

import contextlib
import math
import time
from typing import Any

import psutil
import torch


class Usage:
    """Measured between two calls of `measure`, for this process and its loader processes."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._seconds, self._at = self._cpu_seconds(), time.monotonic()

    def measure(self) -> dict[str, float]:
        """Return CPU use (100 is one core), memory in GiB, and where there is a GPU its use (%) and memory.

        Memory is the private one of all processes where the system tells it, else resident memory. GPU use needs
        nvidia-ml-py; without it only its memory is told.
        """
        seconds, now = self._cpu_seconds(), time.monotonic()
        passed = max(now - self._at, 1e-6)
        share = 100 * max(0.0, seconds - self._seconds) / passed
        self._seconds, self._at = seconds, now
        return {"system/cpu_percent": share, "system/memory_gib": self._memory() / 2**30, **_gpu()}

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.Error:
            return [self._process]

    def _cpu_seconds(self) -> float:
        return math.fsum(times.user + times.system for times in _ask_all(self._processes(), "cpu_times"))

    def _memory(self) -> float:
        asked = _ask_all(self._processes(), "memory_info")
        return math.fsum(memory.rss - getattr(memory, "shared", 0) for memory in asked)


def _ask_all(processes: list[psutil.Process], question: str) -> list[Any]:
    """The answers of the processes that are still there."""
    answers = []
    for process in processes:
        try:
            answers.append(getattr(process, question)())
        except psutil.Error:
            continue
    return answers


def _gpu() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    values = {
        "system/gpu_memory_gib": (total - free) / 2**30,
        "system/gpu_memory_peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    # nvidia-ml-py is not installed, or its own kind of error: on a part of a card (MIG) the driver does not tell.
    with contextlib.suppress(Exception):
        values["system/gpu_percent"] = float(torch.cuda.utilization())
    return values
