"""The jobs of a sweep on a SLURM cluster: each training a job with a name of its own, other jobs one array."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from segplan.entry.launchers import Slurm
from segplan.entry.sweep_job import SweepJob
from segplan.jobs import cluster


def run_on_slurm(jobs: Sequence[SweepJob], launcher: Slurm, environment: Mapping[str, str]) -> list[int | None]:
    """Submit jobs and, unless told otherwise, wait for them.

    Returns:
        Exit codes in the order of `jobs`; None where it was not waited for.

    Raises:
        RunError: SLURM is not there or refuses a job.
    """
    are_trainings = len({job.name for job in jobs}) == len(jobs)
    groups = [[job] for job in jobs] if are_trainings else [list(jobs)]
    numbers = []
    for group in groups:
        waiting = cluster.job_of(group[0].command) if len(group) == 1 else None
        done = [waiting] if waiting else submit_group(group, launcher, environment)
        for number, job in zip(done, group, strict=True):
            word = "in the queue" if waiting else "submitted"
            print(f"{word} {number}: {job.name} → {job.command.log}", flush=True)
        numbers += done
    if not launcher.wait:
        return [None] * len(jobs)
    codes = wait_for({number: job.command for number, job in zip(numbers, jobs, strict=True)})
    return [codes[number] for number in numbers]


def wait_for(jobs: Mapping[str, cluster.Command]) -> dict[str, int]:
    """Wait for the end of jobs, given by their ids; returns their exit codes. Ctrl-C leaves them in the queue."""
    try:
        return cluster.wait(jobs)
    except KeyboardInterrupt:
        whole = sorted({number.partition("_")[0] for number in jobs})
        print(f"\nthe jobs go on; scancel {' '.join(whole)} ends them")
        raise


def submit_group(
    group: Sequence[SweepJob], launcher: Slurm, environment: Mapping[str, str], after: Sequence[str] = ()
) -> list[str]:
    """Submit one job, or several as one array, after the jobs with the ids `after`; returns their ids."""
    first = group[0]
    resources = replace(
        launcher,
        nodes=launcher.nodes or first.nodes,
        tasks_per_node=launcher.tasks_per_node or first.devices or launcher.gpus_per_node or 1,
    )
    return cluster.submit([job.command for job in group], first.name, resources, after=after, environment=environment)
