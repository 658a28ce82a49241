"""Commands that need each other's results, as jobs of a SLURM cluster: each waits in the queue until it may begin."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from segplan.entry.arguments import quote_paths
from segplan.entry.environment import child_environment
from segplan.entry.launchers import Local, Slurm, pop_launcher
from segplan.entry.locations import planned
from segplan.entry.slurm import submit_group, wait_for
from segplan.entry.sweep_job import SweepJob, SweepJobs
from segplan.errors import ConfigError, SegplanError
from segplan.jobs import cluster
from segplan.jobs.cluster import Command
from segplan.jobs.fold_done import is_done_with


@dataclass(frozen=True)
class Link:
    """A command of a chain.

    Args:
        name: no other one's.
        words: of the command, after `segplan`.
        after: names of those that must have ended well before it begins. If one fails, it is cancelled.
        log: takes what it prints; None of a training, which has one of its own.
    """

    name: str
    words: Sequence[str]
    after: Sequence[str] = ()
    log: Path | None = None


def pop_cluster(arguments: Sequence[str]) -> tuple[Slurm | None, list[str]]:
    """The cluster that a command line chooses, None for this machine; and its other arguments.

    Raises:
        ConfigError: as `pop_launcher`; or it sets how many jobs run at once on this machine.
    """
    launcher, others = pop_launcher(arguments)
    if isinstance(launcher, Slurm):
        return launcher, others
    if launcher != Local():
        mine = [word for word in arguments if word not in others and "hydra/launcher=" not in word]
        where = mine[0] if mine else "hydra.launcher"
        raise ConfigError("on this machine they run one after another", where, "Use hydra/launcher=slurm.")
    return None, others


def run_chain(
    links: Sequence[Link], launcher: Slurm, workspace: Path, *, ended_count: bool = False
) -> dict[str, int | None]:
    """Submit commands at once, each after those that it needs, and unless told otherwise wait for them.

    Trainings are composed and checked now: a plan that is edited while they wait changes none of them. One that is done
    with the very same configuration is left out. A command that is in the queue from an earlier call stays there,
    unless it is to wait for one that is not.

    Args:
        links: in an order in which they could run.
        launcher: what each asks for; one that is no training is one process on one machine.
        workspace: where they work.
        ended_count: a command that has left the queue with an exit code of 0 is not submitted again; codes of older
            submissions must be gone.

    Returns:
        Exit codes by name; None where it was not waited for.

    Raises:
        ConfigError: a training cannot work; nothing is written or submitted then.
        RunError: SLURM is not there or refuses a job.
    """
    cluster.require_slurm()
    jobs, done = _prepare(links, workspace)
    environment = {"PYTHONPATH": child_environment()["PYTHONPATH"]}
    codes: dict[str, int | None] = {}
    numbers: dict[str, str] = {}
    new: set[str] = set()
    for link in links:
        job, needs_new = jobs[link.name], bool(new & set(link.after))
        waiting = cluster.job_of(job.command)
        has_ended = link.name in done or (ended_count and cluster.exit_code(job.command) == 0)
        if waiting is None and has_ended and not needs_new:
            codes[link.name] = 0
            continue
        if waiting is not None and needs_new and cluster.is_pending(waiting):
            cluster.cancel(waiting)
            waiting = None
        if waiting is None:
            new.add(link.name)
            after = [numbers[name] for name in link.after if name in numbers]
            waiting = submit_group([job], _resources(link, launcher), environment, after)[0]
        numbers[link.name] = waiting
        word = "submitted" if link.name in new else "in the queue"
        print(f"{word} {waiting}: {link.name} → {job.command.log}", flush=True)
    if not launcher.wait:
        return codes | dict.fromkeys(numbers)
    ended = wait_for({number: jobs[name].command for name, number in numbers.items()})
    failed: set[str] = set()
    for link in links:
        if link.name not in numbers or not ended[numbers[link.name]]:
            continue
        before = [name for name in link.after if name in failed]
        failed.add(link.name)
        command = jobs[link.name].command
        how = f"not begun: {', '.join(before)} failed" if before else _ending(command, begun=link.name not in new)
        print(f"segplan: {link.name}: {how}", file=sys.stderr)
    return codes | {name: ended[number] for name, number in numbers.items()}


def _resources(link: Link, launcher: Slurm) -> Slurm:
    if link.log is None:
        return launcher
    # Planning goes on where it was when a job is requeued; what comes after trainings would begin anew each time.
    delay = launcher.signal_delay_s if link.words[0] == "plan" else 0
    return replace(launcher, nodes=1, tasks_per_node=1, signal_delay_s=delay)


def _prepare(links: Sequence[Link], workspace: Path) -> tuple[dict[str, SweepJob], set[str]]:
    """The job of every command, and which trainings are done; what trains is written once all are checked."""
    trainings, known = SweepJobs("train", workspace, queue=True), planned(workspace)
    checked: dict[str, tuple[DictConfig, list[str]]] = {}
    problems = []
    for link in links:
        if link.log is None:
            words = quote_paths(list(link.words[1:]), known, multirun=False)
            try:
                checked[link.name] = trainings.check(words, waits=bool(link.after)), words
            except SegplanError as error:
                problems.append(f"{link.name}: {error}")
    if problems:
        for problem in problems:
            print(f"segplan: {problem}", file=sys.stderr, flush=True)
        raise ConfigError("cannot work, and nothing is submitted", f"{len(problems)} of {len(links)} steps")
    done = {name for name, (config, _) in checked.items() if is_done_with(config)}
    jobs = {}
    for link in links:
        if link.log is None:
            jobs[link.name] = trainings.write(*checked[link.name])
        else:
            own = [*link.words, *([] if _names_workspace(link.words) else [f"workspace={workspace}"])]
            command = Command([sys.executable, "-m", "segplan.cli", *own], link.log)
            jobs[link.name] = SweepJob(link.words, f"segplan {link.name}", command)
    return jobs, done


def _names_workspace(words: Sequence[str]) -> bool:
    return any(word.startswith("workspace=") for word in words)


def _ending(command: Command, *, begun: bool) -> str:
    """How a job that failed ended: it has written its exit code, unless it never ran or was ended from outside."""
    if command.code_file.exists():
        return f"failed ({cluster.exit_code(command)}), see {command.log}"
    how = "cancelled, its time was over, or its machine failed"
    return f"{how}, see {command.log}" if command.log.exists() or begun else how
