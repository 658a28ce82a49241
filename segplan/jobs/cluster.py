"""Jobs on a SLURM cluster: submit commands with what they need, as one job or an array, and wait for their end.

A job's script is plain sbatch. On SIGUSR1, which SLURM sends some time before the limit, a training saves and leaves
with 138; the script, and nothing else, then puts the job back into the queue, where the same command goes on.
"""

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segplan.errors import ConfigError, RunError
from segplan.imaging import atomic_write

REQUEUE_CODE = 138
"""128 + SIGUSR1, on Linux: what a command leaves with that was asked to save before its time is over."""


_LEAST = {
    "timeout_min": 1,
    "nodes": 1,
    "tasks_per_node": 1,
    "cpus_per_task": 1,
    "gpus_per_node": 0,
    "signal_delay_s": 0,
    "array_parallelism": 1,
}
"""Settings that are whole numbers, and the least that each may be."""


@dataclass(frozen=True)
class Resources:
    """What a job asks SLURM for; what is None is left to the cluster's defaults.

    Args:
        partition: where it queues.
        timeout_min: minutes a job may run; a training that needs more is requeued and goes on.
        nodes: machines; 1, and for a training trainer.num_nodes.
        tasks_per_node: processes a machine, each of which runs the command; 1, and for a training trainer.devices.
            Those of a prediction share its cases.
        cpus_per_task: cores a process.
        gpus_per_node: GPUs a machine.
        mem_gb: memory a machine.
        account: who pays.
        signal_delay_s: seconds before the limit at which a job is told to save; 0: it is not told.
        array_parallelism: how many jobs of an array may run at once.
        additional_parameters: any other option of sbatch, by its long name: {qos: low, gres: "gpu:a100:1"}.
        setup: shell lines before the command, such as "module load cuda".
    """

    partition: str | None = None
    timeout_min: int | None = None
    nodes: int | None = None
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    account: str | None = None
    signal_delay_s: int = 120
    array_parallelism: int | None = None
    additional_parameters: Mapping[str, Any] = field(default_factory=dict)
    setup: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f"must be a whole number from {least}", f"hydra.launcher.{name}={value}")
        memory = self.mem_gb
        if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int | float) or memory <= 0):
            raise ConfigError("must be a number above 0", f"hydra.launcher.mem_gb={memory}")
        more: Any = self.additional_parameters  # a command line may give anything
        if not isinstance(more, Mapping):
            where = f"hydra.launcher.additional_parameters={more}"
            raise ConfigError("must be a mapping", where, "Write {qos: low}.")
        if isinstance(self.setup, str) or not isinstance(self.setup, Sequence):
            raise ConfigError("must be a list", f"hydra.launcher.setup={self.setup}", 'Write ["module load cuda"].')


@dataclass(frozen=True)
class Command:
    """A command that a job runs.

    Args:
        words: program and arguments.
        log: the file that takes what it prints; its exit code stands beside it, in `LOG.code`, once it has ended.
    """

    words: Sequence[str]
    log: Path

    @property
    def code_file(self) -> Path:
        """Where the job's script writes the command's exit code."""
        return self.log.with_name(f"{self.log.name}.code")

    @property
    def job_file(self) -> Path:
        """Where the id of its last job stands."""
        return self.log.with_name(f"{self.log.name}.job")


def training_log(workspace: Path, folder: Path) -> Path:
    """What takes the output of the job that trains in `folder`, RUN/fold_K; beside it stand the job's id and code."""
    return (workspace / "logs" / folder.relative_to(workspace / "runs")).with_suffix(".log")


def submit(
    commands: Sequence[Command],
    name: str,
    resources: Resources,
    *,
    after: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Submit commands: one as a job of its own, several as one array.

    Args:
        commands: what runs; the script of each stands beside its log.
        name: what the queue shows.
        resources: of each command.
        after: ids of jobs that must have ended well before these begin; if one fails, these are cancelled.
        environment: variables to set.

    Returns:
        The id of each command's job, such as 17 or 17_0.

    Raises:
        RunError: there is no SLURM here, or it refuses the job.
    """
    require_slurm()
    for command in commands:
        command.log.parent.mkdir(parents=True, exist_ok=True)
        command.code_file.unlink(missing_ok=True)
    path = commands[0].log.with_suffix(".sbatch")
    with atomic_write(path) as temporary:
        temporary.write_text(script(commands, name, resources, after, environment or {}), encoding="utf-8")
    done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split()).removeprefix("sbatch: error: ")
        raise RunError(f"SLURM refuses the job ({reason})", path, "Change hydra.launcher.…; `sinfo` lists partitions.")
    number = done.stdout.strip().partition(";")[0]
    jobs = [number] if len(commands) == 1 else [f"{number}_{index}" for index in range(len(commands))]
    for job, command in zip(jobs, commands, strict=True):
        with atomic_write(command.job_file) as temporary:
            temporary.write_text(f"{job}\n", encoding="utf-8")
    return jobs


def is_pending(job: str) -> bool:
    """Whether a job waits in the queue; not if it runs, has ended, or SLURM does not answer."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "PENDING"


def require_slurm() -> None:
    """Refuse to go on where jobs cannot be submitted.

    Raises:
        RunError: there is no SLURM here.
    """
    if shutil.which("sbatch") is None:
        what = "there is no sbatch on this machine"
        raise RunError(what, "hydra/launcher=slurm", "Run it on a cluster's login node.")


def cancel(job: str) -> None:
    """Take a job out of the queue; one that has ended stays as it is."""
    subprocess.run(["scancel", job], capture_output=True, check=False)


def job_of(command: Command) -> str | None:
    """The id of the job that this command has in the queue from an earlier submission; None if there is none."""
    if not command.job_file.is_file() or command.code_file.exists():
        return None
    job = command.job_file.read_text(encoding="utf-8").strip()
    return job if job in _queued({job}) else None


def script(
    commands: Sequence[Command],
    name: str,
    resources: Resources,
    after: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> str:
    """The sbatch script of `submit`."""
    header = [
        f"#SBATCH --{key}{'' if value is True else f'={value}'}"
        for key, value in _options(commands, name, resources, after).items()
    ]
    exports = [f"export {key}={shlex.quote(value)}" for key, value in (environment or {}).items()]
    choices = [
        f"{index}) command=({shlex.join(command.words)}); log={shlex.quote(str(command.log))} ;;"
        for index, command in enumerate(commands)
    ]
    lines = ["#!/bin/bash", *header, *exports, *resources.setup]
    lines += ["case ${SLURM_ARRAY_TASK_ID:-0} in", *choices, "esac"]
    if len(commands) > 1:
        lines.append('exec >> "$log" 2>&1')
    return "\n".join([*lines, _RUN])


_RUN = f"""\
srun "${{command[@]}}"
code=$?
if [ $code -eq {REQUEUE_CODE} ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
  sleep 600  # SLURM ends this script and starts it again
fi
echo $code > "$log.code"
exit $code
"""


def wait(jobs: Mapping[str, Command], poll_s: float = 5.0) -> dict[str, int]:
    """Wait until all jobs have left the queue; returns each one's exit code, 1 where it left none.

    A job without a code was cancelled, or its machine failed. Jobs go on when the waiting is interrupted.
    """
    waiting = set(jobs)
    while waiting:
        waiting &= _queued(waiting)
        if waiting:
            time.sleep(poll_s)
    return {job: exit_code(command) for job, command in jobs.items()}


def exit_code(command: Command) -> int:
    """What its last job left with; 1 where it has not ended, or left no code."""
    try:
        return int(command.code_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 1


def _queued(jobs: set[str]) -> set[str]:
    """Those of `jobs` that wait or run; all of them while SLURM does not answer."""
    numbers = sorted({job.partition("_")[0] for job in jobs})
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(numbers)}", "--format=%i %T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # SLURM forgets jobs some minutes after their end.
        return set() if "Invalid job id" in done.stderr else jobs
    states = dict(line.split() for line in done.stdout.splitlines() if line.strip())
    return {job for job in jobs if states.get(job, "ENDED") in _STILL_THERE}


_STILL_THERE = {
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "SUSPENDED",
    "STOPPED",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESIZING",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
}


def _options(commands: Sequence[Command], name: str, resources: Resources, after: Sequence[str]) -> dict[str, Any]:
    several = len(commands) > 1
    limit = f"%{resources.array_parallelism}" if resources.array_parallelism else ""
    options: dict[str, Any] = {
        "job-name": re.sub(r"\s+", "_", name),
        "output": _quoted(commands[0].log.with_suffix(".sbatch.log") if several else commands[0].log),
        "open-mode": "append",  # a requeued job goes on in the same log
        "requeue": True,
        "signal": f"USR1@{resources.signal_delay_s}" if resources.signal_delay_s else None,
        "nodes": resources.nodes or 1,
        "ntasks-per-node": resources.tasks_per_node or 1,
        "partition": resources.partition,
        "time": resources.timeout_min,
        "cpus-per-task": resources.cpus_per_task,
        "gpus-per-node": resources.gpus_per_node,
        "mem": None if resources.mem_gb is None else f"{round(resources.mem_gb * 1024)}M",
        "account": resources.account,
        "array": f"0-{len(commands) - 1}{limit}" if several else None,
        "dependency": f"afterok:{':'.join(after)}" if after else None,
        "kill-on-invalid-dep": "yes" if after else None,
    } | {str(key).replace("_", "-"): value for key, value in resources.additional_parameters.items()}
    return {key: value for key, value in options.items() if value is not None and value is not False}


def _quoted(path: Path) -> str:
    """A path as sbatch reads it: % begins a placeholder there."""
    text = str(path).replace("%", "%%")
    return f'"{text}"' if re.search(r"\s", text) else text
