"""One job of a sweep: composed and checked, with the command that runs it and the file that takes what it prints."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from segplan.entry.arguments import quote
from segplan.entry.compose import compose_job
from segplan.errors import ConfigError
from segplan.jobs.cluster import Command, job_of, training_log
from segplan.jobs.prepare import check_run, fold_folder, is_configuration, run_command, write_run


@dataclass(frozen=True)
class SweepJob:
    """What a launcher needs to know of a job.

    Args:
        words: its overrides.
        name: what a queue shows.
        command: what runs, and its log.
        nodes: the machines that it runs on.
        devices: its processes on each machine; None: one a GPU.
    """

    words: Sequence[str]
    name: str
    command: Command
    nodes: int = 1
    devices: int | None = 1


class SweepJobs:
    """Prepares the jobs of one sweep; no two of them may have one folder.

    Args:
        job: plan, train or predict.
        workspace: where they work.
        queue: they go to a cluster, in whose queue a training may be already.
    """

    def __init__(self, job: str, workspace: Path, *, queue: bool = False) -> None:
        self._job, self._workspace, self._queue = job, workspace, queue
        self._taken: dict[Path, str] = {}
        self._waiting: set[Path] = set()
        self._others = workspace / "logs" / job / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"

    def prepare(self, number: int, words: Sequence[str]) -> SweepJob:
        """Compose a training and write its configuration; the other jobs compose where they run.

        Args:
            number: of the job in the sweep.
            words: its overrides.

        Raises:
            SegplanError: the job cannot work.
        """
        if self._job == "train":
            return self.write(self.check(words), words)
        others = [word for word in words if word.partition("=")[0] != "workspace"]
        run = [sys.executable, "-m", "segplan.cli", self._job, *others, f"workspace={quote(str(self._workspace))}"]
        given = dict(word.partition("=")[::2] for word in words)
        of = given.get("plan" if self._job == "predict" else "dataset", "").strip("'\"")
        name = f"segplan {self._job} {of if self._job == 'predict' else Path(of).name}".strip()
        return SweepJob(words, name, Command(run, self._others / f"{number}.log"))

    def check(self, words: Sequence[str], *, waits: bool = False) -> DictConfig:
        """Compose a training, and refuse what cannot work; writes nothing.

        Args:
            words: its overrides.
            waits: it begins after other trainings, whose results may be missing now.

        Raises:
            SegplanError: it cannot work, or is in the queue with another configuration.
        """
        config = compose_job("train", list(words), self._workspace)
        folder = fold_folder(config)
        if folder in self._taken:
            what = f"its folder is also that of another job of the sweep ({self._taken[folder]})"
            raise ConfigError(what, folder, "Leave run= out: each job's run is then named after what is swept.")
        self._taken[folder] = " ".join(words)
        job = job_of(Command((), training_log(self._workspace, folder))) if self._queue else None
        if job is None:
            check_run(config, waits=waits)
            return config
        if not is_configuration(folder / "config.yaml", config):
            what = f"is in the queue, or runs, with another configuration (SLURM job {job})"
            raise ConfigError(what, folder, f"Wait for it, end it (scancel {job}), or use run=NAME.")
        self._waiting.add(folder)
        return config

    def write(self, config: DictConfig, words: Sequence[str]) -> SweepJob:
        """Write a training's configuration, unless it is in the queue already; `config` and `words` as in `check`."""
        folder = fold_folder(config)
        if folder not in self._waiting:
            write_run(config)
        run = [] if config.run == "default" else [str(config.run)]
        name = "/".join([*folder.relative_to(self._workspace / "runs").parts[:-2], *run, f"fold_{config.fold}"])
        devices, nodes = config.trainer.get("devices", 1), int(config.trainer.get("num_nodes", 1))
        command = Command(run_command(folder / "config.yaml"), training_log(self._workspace, folder))
        return SweepJob(words, name, command, nodes, _processes(devices))


def _processes(devices: Any) -> int | None:
    """Processes a machine for Lightning's `devices`; None where that depends on the GPUs of a machine."""
    text = str(devices)
    if text.lstrip("-").isdigit():
        return int(text) if int(text) > 0 else None
    return None if text == "auto" else len(devices)
