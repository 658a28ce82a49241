"""The job `segplan auto`: from a raw dataset to a selected, exported model and a report, by the ordinary commands.

Each step is a command in a process of its own. What is done is seen from the files that the steps leave, so the same
call goes on wherever it was stopped. Steps run one after another on this machine, or as jobs of a cluster that wait for
each other.
"""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from segplan.errors import ConfigError, RunError
from segplan.jobs.auto_budget import Budget, epochs_within
from segplan.jobs.auto_estimate import Estimate, estimate
from segplan.jobs.auto_record import collect_submitted, read_record, record_submitted, write_record
from segplan.jobs.auto_steps import (
    AutoSettings,
    Step,
    chosen_configurations,
    folds_of,
    is_done,
    list_steps,
    plan_step,
)
from segplan.jobs.console import print_table, workspace_word
from segplan.jobs.fold_states import fold_state

_POLL_SECONDS = 5.0
_FIRST_SIGNAL_CODE = 128
_USER_MISTAKE = 2
_OWN = "own_overrides"  # of the record

Execute = Callable[[Sequence[str]], int]
Launch = Callable[[Sequence[Step]], Mapping[str, int | None]]
Compose = Callable[[str, Sequence[str]], Mapping[str, Any]]


def run(settings: AutoSettings, budget: Budget, execute: Execute, compose: Compose) -> int:
    """Do every step that is not done; returns the exit code.

    A training that fails does not keep the others from running, but nothing is selected then.

    Args:
        settings: what is to be made.
        budget: how much training.
        execute: runs `segplan WORDS` and returns its exit code.
        compose: gives the training configuration of a plan with overrides.

    Raises:
        SegplanError: what is asked for cannot be made.
    """
    settings = with_budget(settings, budget, compose)
    steps = list_steps(settings)
    collect_submitted(settings, steps)
    failed: list[Step] = []
    for number, step in enumerate(steps, start=1):
        recorded = read_record(settings)
        if is_done(step, settings, recorded):
            print(f"[{number}/{len(steps)}] {step.name}: done", flush=True)
            continue
        if failed and (step.kind != "train" or set(step.after) & {other.name for other in failed}):
            continue
        print(f"[{number}/{len(steps)}] {step.name}: segplan {shlex.join(step.words)}", flush=True)
        code = _do(step, settings, execute)
        if code >= _FIRST_SIGNAL_CODE or code == _USER_MISTAKE or code < 0:
            print(f"segplan: auto stops at {step.name}; the same command goes on", file=sys.stderr)
            return code if code >= 0 else 1
        if code:
            failed.append(step)
            continue
        write_record(settings, {**read_record(settings), step.name: list(step.words)})
    return _end(settings, failed)


def run_on_cluster(settings: AutoSettings, budget: Budget, launch: Launch, compose: Compose) -> int:
    """Hand every step that is not done to a cluster, each after those that it needs; returns the exit code.

    Args:
        settings: what is to be made.
        budget: how much training, in epochs (`refuse_hours`).
        launch: submits steps, and returns each one's exit code; None where nobody waits for it.
        compose: gives the training configuration of a plan with overrides.

    Raises:
        SegplanError: what is asked for cannot be made, or the cluster refuses it.
    """
    settings = with_budget(settings, budget, compose)
    steps = list_steps(settings)
    recorded = collect_submitted(settings, steps)
    left: list[Step] = []
    for number, step in enumerate(steps, start=1):
        if set(step.after) & {other.name for other in left} or not is_done(step, settings, recorded):
            left.append(step)
        else:
            print(f"[{number}/{len(steps)}] {step.name}: done", flush=True)
    record_submitted(settings, left)
    codes = launch(left)
    collect_submitted(settings, steps)
    if None in codes.values():
        shown = shlex.join(["segplan", "jobs", settings.group.split("/")[0], *workspace_word(settings.workspace)])
        print(f"{shown} shows how far they are; without hydra.launcher.wait=false the same command waits for them")
        return 0
    return _end(settings, [step for step in left if codes[step.name]])


def plan_on_cluster(settings: AutoSettings, words: Sequence[str], launch: Launch) -> int:
    """Plan in a job with the words of `segplan plan`, unless the very same ones did; returns the exit code.

    Raises:
        RunError: another planning is in the queue.
    """
    step = plan_step(words)
    if is_done(step, settings, collect_submitted(settings, [step])):
        print(f"planned already: segplan {shlex.join(words)} does it again", flush=True)
        return 0
    record_submitted(settings, [step])
    code = launch([step])[step.name] or 0
    collect_submitted(settings, [step])
    return code


def plan_first(words: Sequence[str], execute: Execute, *, only: bool = False) -> int:
    """Plan and preprocess with the words of `segplan plan`; `only` plan, where the steps are but to be shown."""
    if only:
        print("not planned yet: planning it now, which is quick; nothing else is run", flush=True)
        return execute([*words, "stages=[verify,fingerprint,plan]"])
    return execute(words)


def show(settings: AutoSettings, budget: Budget, compose: Compose, *, cluster: str | None = None) -> int:
    """Print the steps with an estimate of time and disk, and run none; returns the exit code.

    Args:
        settings: what would be made.
        budget: how much training.
        compose: gives the training configuration of a plan with overrides.
        cluster: what each step would ask for as a job of a cluster, for people; None: they would run here.

    Raises:
        SegplanError: what is asked for cannot be made.
    """
    settings = with_budget(settings, budget, compose, keep=False)
    steps = list_steps(settings)
    recorded = collect_submitted(settings, steps, keep=False)
    estimates: dict[str, tuple[Estimate, int]] = {}
    rows, seconds, disk = [], 0.0, 0
    for step in steps:
        done = is_done(step, settings, recorded)
        cells = ["done" if done else "to do", "", "", shlex.join(["segplan", *step.words])]
        if step.kind == "train" and not done:
            state = fold_state(settings.workspace, step.plan, settings.run, step.fold)
            if state.status == "running":
                cells[0] = "in the queue" if state.detail.startswith("in the queue") else "running"
            configuration = step.plan.rpartition("/")[2]
            if step.plan not in estimates:
                estimates[step.plan] = _estimate(settings, configuration, compose)
            found, epochs = estimates[step.plan]
            left = max(0, epochs - state.epoch)
            seconds += found.epoch_seconds * left
            disk += found.disk_bytes
            cells[1:3] = [_duration(found.epoch_seconds * left), _size(found.disk_bytes)]
        rows.append([step.name, *cells])
    print_table(["step", "state", "training", "disk", "command"], rows)
    if cluster is not None:
        print(f"each step would be a job of SLURM ({cluster}) that waits for those that it needs")
    for plan, (found, epochs) in estimates.items():
        count = f"{epochs} epoch{'' if epochs == 1 else 's'}"
        print(f"{plan}: {count}, {_duration(found.epoch_seconds)} each ({found.basis})")
    place = next(path for path in (settings.workspace, *settings.workspace.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    print(f"in all about {_duration(seconds)} of training, and {_size(disk)} of disk; {_size(free)} are free")
    if disk > free:
        print("note: that is more than is free; name another workspace=")
    return 0


def with_budget(settings: AutoSettings, budget: Budget, compose: Compose, *, keep: bool = True) -> AutoSettings:
    """The settings with the budget as overrides; hours become epochs once, and are kept for the next start."""
    if budget.seconds is None:
        return replace(settings, overrides=[*budget.overrides(), *settings.overrides])
    chosen = chosen_configurations(settings)
    recorded = read_record(settings).get(_OWN, {})
    folds = {name: folds_of(settings, name) for name in chosen}
    shares = " ".join(f"{name}:{','.join(folds[name])}" for name in chosen)
    key = f"{budget.seconds:g} {shares} {' '.join(settings.overrides)}"
    if recorded.get("for") != key:
        share = budget.seconds / len(chosen)
        epochs = {}
        for name in chosen:
            found, _ = _estimate(settings, name, compose)
            epochs[name] = epochs_within(share, found.epoch_seconds, len(folds[name]))
        recorded = {"for": key, "epochs": epochs}
        if keep:
            write_record(settings, {**read_record(settings), _OWN: recorded})
    own = {name: [f"trainer.max_epochs={count}"] for name, count in recorded["epochs"].items()}
    return replace(settings, own_overrides=own)


def refuse_hours(budget: Budget) -> None:
    """Refuse a budget in hours: the machine that submits cannot turn them into epochs of another one.

    Raises:
        ConfigError: it is in hours.
    """
    if budget.seconds is not None:
        what = "is turned into epochs by timing a step, and the jobs run on other machines"
        raise ConfigError(what, f"budget={budget.seconds / 3600:g}h", "Say epochs: budget=100, or budget=100x50.")


def _end(settings: AutoSettings, failed: Sequence[Step]) -> int:
    if failed:
        trained = any(step.kind == "train" for step in failed)
        words = ["segplan", "jobs", settings.group.split("/")[0], *workspace_word(settings.workspace)]
        why = f"; {shlex.join(words)} says why" if trained else ""
        print(f"segplan: failed: {', '.join(step.name for step in failed)}{why}", file=sys.stderr)
        return 1
    print(f"model   {settings.model_file}\nreport  {settings.report_file}")
    return 0


def _do(step: Step, settings: AutoSettings, execute: Execute) -> int:
    if step.kind == "train":
        _wait_for_other(step, settings)
    code = execute(step.words)
    if code == 0 and step.kind == "train":
        state = fold_state(settings.workspace, step.plan, settings.run, step.fold)
        if state.status != "done":
            what = f"ended well, but its fold is {state.status} ({state.detail})"
            raise RunError(what, state.folder, "Call the same command again.")
    return code


def _wait_for_other(step: Step, settings: AutoSettings) -> None:
    """Wait while another process trains the fold: a killed `auto` leaves the one that it started."""
    told = False
    while (state := fold_state(settings.workspace, step.plan, settings.run, step.fold)).status == "running":
        if not told:
            print(f"is being trained already ({state.detail}): waiting for its end", flush=True)
            told = True
        time.sleep(_POLL_SECONDS)


def _estimate(settings: AutoSettings, configuration: str, compose: Compose) -> tuple[Estimate, int]:
    plan = f"{settings.group}/{configuration}"
    config = compose(plan, [*settings.overrides, *settings.own_overrides.get(configuration, ())])
    found = estimate(settings.workspace, plan, config, len(folds_of(settings, configuration)))
    return found, int(config["trainer"]["max_epochs"])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
