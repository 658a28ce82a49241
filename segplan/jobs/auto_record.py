"""What `segplan auto` notes for its next start: which steps are done, and which were handed to a cluster."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segplan.errors import RunError
from segplan.imaging import atomic_write
from segplan.jobs.auto_steps import AutoSettings, Step
from segplan.jobs.cluster import Command, exit_code, job_of, training_log

_SUBMITTED = "submitted"


def read_record(settings: AutoSettings) -> dict[str, Any]:
    """Which steps are done, by name: the words that did them; and what was decided on the way."""
    try:
        content = json.loads(_file(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_record(settings: AutoSettings, record: Mapping[str, Any]) -> None:
    """Keep the record for the next start.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    with atomic_write(_file(settings)) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def job_of_step(step: Step, settings: AutoSettings) -> Command:
    """The job of a step on a cluster, by the log that says how far it is."""
    if step.kind == "train":
        folder = settings.workspace / "runs" / step.plan / settings.run / f"fold_{step.fold}"
        return Command((), training_log(settings.workspace, folder))
    run = "" if settings.run == "default" or step.kind == "plan" else f"_{settings.run}"
    return Command((), settings.workspace / "logs" / settings.group / f"auto_{step.kind}{run}.log")


def record_submitted(settings: AutoSettings, steps: Sequence[Step]) -> None:
    """Note which steps are handed to a cluster, and remove the exit codes of earlier jobs.

    Raises:
        RunError: a step is in the queue with other words, of an earlier call.
    """
    recorded = read_record(settings)
    before = recorded.get(_SUBMITTED, {})
    queued = {step.name: job for step in steps if (job := job_of(job_of_step(step, settings))) is not None}
    others = sorted({queued[step.name] for step in steps if step.name in queued and _differs(step, before)})
    if others:
        what = f"jobs of the same steps with other words are in the queue ({', '.join(others)})"
        remedy = f"Wait for them, or end them first: scancel {' '.join(others)}."
        raise RunError(what, settings.group, remedy)
    for step in steps:
        if step.name not in queued:
            job_of_step(step, settings).code_file.unlink(missing_ok=True)
    submitted = {step.name: list(step.words) for step in steps}
    write_record(settings, {**recorded, _SUBMITTED: {**before, **submitted}})


def _file(settings: AutoSettings) -> Path:
    """Of the run alone: another run's call may write its own at the same time."""
    return settings.folder / ("auto.json" if settings.run == "default" else f"auto_{settings.run}.json")


def _differs(step: Step, submitted: Mapping[str, Any]) -> bool:
    return bool(submitted.get(step.name) != list(step.words))


def collect_submitted(settings: AutoSettings, steps: Sequence[Step], *, keep: bool = True) -> dict[str, Any]:
    """Note as done what a cluster has done since it was submitted; returns the record, and writes it if `keep`."""
    recorded = read_record(settings)
    waiting = recorded.get(_SUBMITTED, {})
    ended = {
        step.name: list(step.words)
        for step in steps
        if not _differs(step, waiting) and exit_code(job_of_step(step, settings)) == 0
    }
    if ended:
        left = {name: words for name, words in waiting.items() if name not in ended}
        recorded = {**recorded, **ended, _SUBMITTED: left}
        if keep:
            write_record(settings, recorded)
    return recorded
