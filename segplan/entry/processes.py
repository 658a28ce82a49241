"""The jobs of a sweep as processes of this machine, some at once; signals let them save, and start no more."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from segplan.jobs.cluster import Command

_POLL_S = 0.05


def run_processes(
    commands: Sequence[Command], devices: Sequence[str | None], environment: Mapping[str, str]
) -> list[int | None]:
    """Run commands, as many at once as there are `devices`.

    Args:
        commands: what runs. One at a time prints here; several at once print into their logs.
        devices: $CUDA_VISIBLE_DEVICES of each that runs at the same time; None leaves it as it is.
        environment: of all.

    Returns:
        Exit codes in the order of `commands`; None for those that were not begun because a signal came.
    """
    codes: list[int | None] = [None] * len(commands)
    due = list(range(len(commands)))
    running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}  # place in `devices` to command and process
    with _signals_noted(running) as received:
        while running or (due and not received):
            for place in range(len(devices)):
                if place not in running and due and not received:
                    number = due.pop(0)
                    running[place] = number, _start(commands[number], devices[place], environment, len(devices) > 1)
            time.sleep(_POLL_S)
            for place, (number, process) in list(running.items()):
                code = process.poll()
                if code is not None:
                    codes[number] = code if code >= 0 else 128 - code
                    del running[place]
    return codes


def run_process(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command, and hand on what stops this process, so that a training saves; returns its exit code.

    A Ctrl-C of the terminal reaches both. Unlike `subprocess.call`, which kills what does not end at once then.
    """
    running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
    with _signals_noted(running, "") as received:
        process = subprocess.Popen(list(words), env=dict(environment))
        running[0] = 0, process
        code = process.wait()
    if received:
        return 128 + received[0]
    return code if code >= 0 else 128 - code


def _start(
    command: Command, device: str | None, environment: Mapping[str, str], several: bool
) -> subprocess.Popen[bytes]:
    its_own = dict(environment) | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
    if not several:
        return subprocess.Popen(command.words, env=its_own)
    print(f"started: {command.log}{'' if device is None else f' (GPU {device})'}", flush=True)
    with _opened(command.log) as log:
        return subprocess.Popen(command.words, env=its_own, stdout=log, stderr=subprocess.STDOUT)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield file.fileno()


@contextmanager
def _signals_noted(
    running: Mapping[int, tuple[int, subprocess.Popen[bytes]]], said: str = "no further job of the sweep starts"
) -> Iterator[list[int]]:
    """Note signals in a list and hand them on; Ctrl-C reaches the jobs by itself: they are of this process's group."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGINT:
            for _, process in list(running.values()):
                process.send_signal(number)
        if said:
            sys.stderr.write(f"segplan: {signal.Signals(number).name}: {said}\n")

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
    before = {signal.Signals[name]: signal.getsignal(signal.Signals[name]) for name in names}
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
