"""Commands that need each other's results, as jobs of a SLURM cluster: each waits in the queue until it may begin."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segplan.entry.arguments import quote_paths
from segplan.entry.environment import child_environment
from segplan.entry.launchers import Local, Slurm, pop_launcher
from segplan.entry.locations import planned
from segplan.entry.slurm import submit_group, wait_for
from segplan.entry.sweep_job import SweepJob, SweepJobs
from segplan.errors import ConfigError, SegplanError
from segplan.jobs import cluster
from segplan.jobs.cluster import Command


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
        where = next(word for word in arguments if word not in others and not word.startswith("hydra/launcher="))
        raise ConfigError("on this machine they run one after another", where, "Use hydra/launcher=slurm.")
    return None, others


def run_chain(
    links: Sequence[Link], launcher: Slurm, workspace: Path, *, ended_count: bool = False
) -> dict[str, int | None]:
    """Submit commands at once, each after those that it needs, and unless told otherwise wait for them.

    Trainings are composed and checked now: a plan that is edited while they wait changes none of them. A command that
    is in the queue from an earlier call stays there, unless it is to wait for one that is not.

    Args:
        links: in an order in which they could run.
        launcher: what each asks for; one that is no training is one process on one machine.
        workspace: where they work.
        ended_count: what has left the queue meanwhile with an exit code of 0 is not submitted again; codes of older
            submissions must be gone.

    Returns:
        Exit codes by name; None where it was not waited for.

    Raises:
        ConfigError: a training cannot work; nothing is submitted then.
        RunError: SLURM is not there or refuses a job.
    """
    jobs = _prepare(links, workspace)
    alone = replace(launcher, nodes=1, tasks_per_node=1)
    environment = {"PYTHONPATH": child_environment()["PYTHONPATH"]}
    numbers: dict[str, str] = {}
    ended: dict[str, int | None] = {}
    new: set[str] = set()
    for link in links:
        job = jobs[link.name]
        waiting = cluster.job_of(job.command)
        if ended_count and waiting is None and cluster.exit_code(job.command) == 0 and not new & set(link.after):
            ended[link.name] = 0
            continue
        if waiting is not None and new & set(link.after):
            cluster.cancel(waiting)
            waiting = None
        if waiting is None:
            new.add(link.name)
            after = [numbers[name] for name in link.after if name in numbers]
            resources = launcher if link.log is None else alone
            numbers[link.name] = submit_group([job], resources, environment, after)[0]
        else:
            numbers[link.name] = waiting
        word = "submitted" if link.name in new else "in the queue"
        print(f"{word} {numbers[link.name]}: {link.name} → {job.command.log}", flush=True)
    if not launcher.wait:
        return ended | dict.fromkeys(numbers)
    codes = wait_for({number: jobs[name].command for name, number in numbers.items()})
    for name, number in numbers.items():
        if codes[number]:
            print(f"segplan: {name}: {_ending(jobs[name].command)}, see {jobs[name].command.log}", file=sys.stderr)
    return ended | {name: codes[number] for name, number in numbers.items()}


def _prepare(links: Sequence[Link], workspace: Path) -> dict[str, SweepJob]:
    trainings, jobs, problems = SweepJobs("train", workspace), {}, []
    known = planned(workspace)
    for number, link in enumerate(links):
        if link.log is not None:
            command = Command([sys.executable, "-m", "segplan.cli", *link.words], link.log)
            jobs[link.name] = SweepJob(link.words, f"segplan {link.name}", command)
            continue
        try:
            words = quote_paths(list(link.words[1:]), known, multirun=False)
            jobs[link.name] = trainings.prepare(number, words, waits=bool(link.after))
        except SegplanError as error:
            problems.append(f"{link.name}: {error}")
    if problems:
        for problem in problems:
            print(f"segplan: {problem}", file=sys.stderr, flush=True)
        raise ConfigError("cannot work, and nothing is submitted", f"{len(problems)} of {len(links)} steps")
    return jobs


def _ending(command: Command) -> str:
    """A job that failed has written its exit code; one that was cancelled, or whose machine was lost, has not."""
    if command.code_file.exists():
        return f"failed ({cluster.exit_code(command)})"
    return "cancelled, or its machine failed"
