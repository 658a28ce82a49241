"""Measuring a command: wall time, CPU seconds and peak memory of its whole process tree.

Every benchmark beside this file measures both programs with this one function, so that neither is measured otherwise.
"""

import contextlib
import ctypes
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent

SAMPLE_EVERY_S = 0.05
# Reading the memory of a tree costs time on the cores that are being measured: the sampler sleeps so long that it
# takes at most a twentieth of one core, on either side.
SAMPLER_SHARE = 0.05

# Linux's prctl: a process's orphaned descendants become its own children, to be waited for and counted.
PR_SET_CHILD_SUBREAPER = 36
ORPHANS_END_WITHIN_S = 30.0

# What a caller's shell may have set and what would change how either program runs.
NEUTRAL_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH", "SEGPLAN_WORKSPACE")


class BenchmarkFailed(Exception):
    """A measured command failed; the message holds the end of what it printed."""


@dataclass(frozen=True)
class Measurement:
    """What one run of a command cost, its child processes included."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def neutral_environment(**extra: str) -> dict[str, str]:
    """The caller's environment without what would steer either program, plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in NEUTRAL_VARIABLES and not name.lower().startswith("nnunet_")
    }
    return kept | {"PYTHONUNBUFFERED": "1"} | extra


def run_logged(folder: Path, words: Sequence[str], log: str, environment: Mapping[str, str]) -> None:
    """Run python with `words`, its output into FOLDER/LOG.log, and print what it cost."""
    cost = run_measured([sys.executable, *words], folder / f"{log.replace('/', '_')}.log", environment)
    print(f"{log}: {cost.wall_s:.0f} s wall, {cost.cpu_s:.0f} s CPU", flush=True)


def run_measured(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> Measurement:
    """Run a command to its end and measure it.

    CPU seconds are user + system of the command and of all its descendants, as the kernel counts them; on Linux also
    of those that nobody waits for, such as multiprocessing's fork server with all its workers. Peak memory is the
    largest sum of proportional set sizes over the tree (pages shared by processes count once); where the system does
    not tell these, the sum of resident set sizes.

    Args:
        command: the program and its arguments; it runs in the repository's root.
        log: what it prints goes here.
        environment: the whole environment of the command.

    Raises:
        BenchmarkFailed: the command's exit code is not 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    _adopt_orphans()
    others = _children()
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=dict(environment),
        )
        sampler = _MemorySampler(process.pid)
        sampler.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _end_tree(process.pid)
            raise
        finally:
            wall_s = time.perf_counter() - start
            sampler.stop()
    cpu_s = usage.ru_utime + usage.ru_stime + _orphans_cpu_s(others)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise BenchmarkFailed(f"{' '.join(map(str, command))}\nleft with {process.returncode}. Its last lines:\n{tail}")
    return Measurement(wall_s, cpu_s, sampler.peak_bytes / 2**20)


class _MemorySampler(threading.Thread):
    """Keeps the largest memory that a process tree was seen to hold."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        pause_s = 0.0
        while not self._ended.wait(pause_s):
            start = time.perf_counter()
            self.peak_bytes = max(self.peak_bytes, _tree_bytes(self._pid))
            pause_s = max(SAMPLE_EVERY_S, (time.perf_counter() - start) / SAMPLER_SHARE)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _orphans_cpu_s(others: set[int]) -> float:
    """Wait for what the command left behind and return its CPU seconds.

    Args:
        others: children of this process that were there before the command.

    Raises:
        BenchmarkFailed: something goes on running.
    """
    total = 0.0
    give_up_at = time.monotonic() + ORPHANS_END_WITHIN_S
    while left := _children() - others:
        if time.monotonic() > give_up_at:
            raise BenchmarkFailed(
                f"processes {sorted(left)} still run {ORPHANS_END_WITHIN_S:.0f} s after the command that started them"
            )
        for child in left:
            pid, _, usage = os.wait4(child, os.WNOHANG)
            if pid:
                total += usage.ru_utime + usage.ru_stime
        time.sleep(0.02)
    return total


def _tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants, as far as they still live."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _tree_bytes(pid: int) -> int:
    total = 0
    for process in _tree(pid):
        # A process may end between being listed and being read; then it holds nothing.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            try:
                memory = process.memory_full_info()
            except psutil.AccessDenied:
                memory = process.memory_info()
            total += getattr(memory, "pss", memory.rss)
    return total


def _end_tree(pid: int) -> None:
    for process in reversed(_tree(pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()


def in_turn(sides: Mapping[str, Callable[[int], Measurement]], repeats: int) -> dict[str, list[Measurement]]:
    """Run all sides one after the other, `repeats` times, saying what each run cost.

    Args:
        sides: name of a program and the function that runs it; the function is given the round's number.
        repeats: number of rounds.
    """
    measured: dict[str, list[Measurement]] = {name: [] for name in sides}
    for number in range(repeats):
        for name, run in sides.items():
            one = run(number)
            measured[name].append(one)
            print(
                f"round {number + 1}/{repeats}  {name:<14} wall {one.wall_s:7.1f} s   CPU {one.cpu_s:7.1f} s   "
                f"peak {one.peak_mib:6.0f} MiB",
                flush=True,
            )
    return measured


def median_and_range(values: Sequence[float], digits: int = 1) -> str:
    """`median (smallest to largest)`."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def print_comparison(
    rows: Mapping[str, tuple[Sequence[float], Sequence[float]]], goals: Mapping[str, float], digits: int = 1
) -> None:
    """Print a Markdown table: a line a quantity, with medians, ranges and the ratio of the medians.

    Args:
        rows: quantity to (segplan's values, nnU-Net's values).
        goals: quantity to the ratio that it should stay under; quantities without a goal are only shown.
        digits: decimals of the values.
    """
    print("\n| quantity, median (range) | segplan | nnU-Net 2.8.1 | ratio | goal |\n|---|---|---|---|---|")
    for quantity, (ours, theirs) in rows.items():
        ratio = statistics.median(ours) / statistics.median(theirs)
        goal = (
            f"at most {goals[quantity]:g}: {'met' if ratio <= goals[quantity] else 'NOT met'}"
            if quantity in goals
            else ""
        )
        print(
            f"| {quantity} | {median_and_range(ours, digits)} | {median_and_range(theirs, digits)} "
            f"| {ratio:.2f} | {goal} |"
        )


def cost_rows(ours: Sequence[Measurement], theirs: Sequence[Measurement]) -> dict[str, tuple[list[float], list[float]]]:
    """The rows for `print_comparison` that every timed benchmark shares."""
    return {
        "wall, s": ([m.wall_s for m in ours], [m.wall_s for m in theirs]),
        "CPU, s": ([m.cpu_s for m in ours], [m.cpu_s for m in theirs]),
        "peak memory, MiB": ([m.peak_mib for m in ours], [m.peak_mib for m in theirs]),
    }


def print_machine() -> None:
    """Say what the numbers below are measured on, and warn where something else keeps the cores busy."""
    cores = core_count()
    memory_gib = psutil.virtual_memory().total / 2**30
    load = psutil.getloadavg()[0]
    print(f"machine: {cores} cores, {memory_gib:.0f} GiB, load {load:.1f}")
    if load > 0.5:
        print("note: something else is running, so times and ratios are not to be trusted; repeat on a quiet machine")


def warm_file_cache(folder: Path) -> None:
    """Read every file under a folder once, so that no side pays for the first read from the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.read_bytes()
