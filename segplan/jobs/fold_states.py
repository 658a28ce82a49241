"""How far the folds of a dataset's runs are, read from the workspace's files alone; imports neither torch nor Hydra.

for state in fold_states(workspace, "Dataset005_Prostate"):
    print(state.plan, state.run, state.fold, state.status, state.detail)
"""

import csv
import json
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segplan.dataset import read_splits
from segplan.errors import SegplanError
from segplan.jobs.cluster import Command, job_of, training_log
from segplan.jobs.console import workspace_word
from segplan.jobs.fold_record import SILENT_AFTER_SECONDS, Attempt, is_alive, read_attempt, seconds_silent

Status = Literal["done", "running", "failed", "stopped", "missing", "impossible"]
DEFAULT_RUN = "default"
_PREVIOUS = "previous"  # of a cascade's run: another model, whose folds are listed where they were trained


@dataclass(frozen=True)
class FoldState:
    """How far one fold of one run is.

    Args:
        plan: DATASET/[NAME/]CONFIGURATION.
        run: name of the run.
        fold: "0", "1", … or "all".
        folder: RUN/fold_K, which need not exist.
        status: done (trained and validated), running (or in SLURM's queue), failed, stopped (goes on when called
            again), missing (never began), or impossible (the plan cannot be trained).
        detail: why, or how it is known; "" where there is nothing to say.
        epoch: epochs that are done.
        max_epochs: of how many; None where nothing began.
        trained: whether the final weights are there.
        validated: whether the fold's validation cases are segmented and evaluated.
        dice: mean over the classes that occur, of the fold's whole validation cases; None before they are evaluated.
        command: words of the command that goes on with it; none where nothing is to be done.
    """

    plan: str
    run: str
    fold: str
    folder: Path
    status: Status
    detail: str = ""
    epoch: int = 0
    max_epochs: int | None = None
    trained: bool = False
    validated: bool = False
    dice: float | None = None
    command: tuple[str, ...] = ()

    @property
    def command_line(self) -> str:
        """The command for a shell."""
        return shlex.join(self.command)


def fold_states(workspace: Path, dataset: str, name: str | None = None) -> list[FoldState]:
    """Every fold of every run of the dataset's configurations, those that never began included.

    A configuration without any run counts as one whose run `default` is missing. Configurations whose plan is gone are
    listed with the folds that they have.

    Args:
        workspace: the workspace's folder.
        dataset: the dataset's name.
        name: only plans of this name; "" for those that have none, None for all.
    """
    runs = _runs(workspace, dataset)
    plans = planned_configurations(workspace, dataset)
    states = []
    for plan in sorted({*plans, *runs}):
        if name is not None and "/".join(plan.split("/")[1:-1]) != name:
            continue
        node = plans.get(plan, {})
        for run in sorted(runs.get(plan, {DEFAULT_RUN})):
            states += run_states(workspace, plan, run, node)
    return states


def planned_configurations(workspace: Path, dataset: str) -> dict[str, Mapping[str, Any]]:
    """The `plan` node that each of a dataset's plan files writes, by DATASET/[NAME/]CONFIGURATION.

    A user's own file on top of another one writes only what it changes.
    """
    root = workspace / "plan"
    found = {}
    for file in sorted([*(root / dataset).glob("*.yaml"), *(root / dataset).glob("*/*.yaml")]):
        address = file.relative_to(root).with_suffix("").as_posix()
        if not file.name.startswith("_") and not address.endswith(".new"):
            found[address] = _node(file, "plan")
    return found


def run_states(workspace: Path, plan: str, run: str, node: Mapping[str, Any] | None = None) -> list[FoldState]:
    """Every fold of one run: those of the dataset's splits_final.json, and whichever others it has.

    Args:
        workspace: the workspace's folder.
        plan: DATASET/[NAME/]CONFIGURATION.
        run: its name.
        node: the plan's own `plan` node, where it is at hand.
    """
    folder = workspace / "runs" / plan / run
    present = {path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir()}
    wanted = {str(number) for number in range(number_of_folds(workspace, plan))}
    if not wanted and not present:
        wanted = {"all"}
    reason = None
    if node is not None and node.get("runnable") is False:
        reason = str(node.get("not_runnable_because") or "the plan is marked as not runnable")
    folds = sorted(present | wanted, key=lambda fold: (not fold.isdigit(), int(fold) if fold.isdigit() else 0, fold))
    return [fold_state(workspace, plan, run, fold, impossible=reason) for fold in folds]


def number_of_folds(workspace: Path, plan: str) -> int:
    """How many folds the splits_final.json beside a plan has; 0 where it has none."""
    try:
        return len(read_splits((workspace / "plan" / plan).parent / "splits_final.json"))
    except (SegplanError, OSError):
        return 0


def fold_state(workspace: Path, plan: str, run: str, fold: str, *, impossible: str | None = None) -> FoldState:
    """How far one fold is.

    Args:
        workspace: the workspace's folder.
        plan: DATASET/[NAME/]CONFIGURATION.
        run: its name.
        fold: "0", "1", … or "all".
        impossible: why the plan cannot be trained, if that is so.
    """
    folder = workspace / "runs" / plan / run / f"fold_{fold}"
    trained = (folder / "weights.safetensors").is_file()
    summary = read_summary(folder / "validation" / "summary.json")
    validated = summary is not None
    trainer = _node(folder / "config.yaml", "trainer")
    status, detail = _judge(folder, trained=trained, validated=validated)
    if status in ("missing", "stopped") and (job := _queued_job(workspace, folder)) is not None:
        status, detail = "running", f"in the queue: SLURM job {job}"
    if status == "missing" and impossible is not None:
        status, detail = "impossible", impossible
    return FoldState(
        plan,
        run,
        fold,
        folder,
        status,
        detail,
        epoch=_epochs_done(folder / "metrics.csv"),
        max_epochs=int(trainer["max_epochs"]) if "max_epochs" in trainer else None,
        trained=trained,
        validated=validated,
        dice=None if summary is None else _mean_dice(summary),
        command=_command(workspace, plan, folder, status),
    )


def read_summary(path: Path) -> dict[str, Any] | None:
    """A summary.json; None if it is not there or was cut short."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "metric_per_case" in content else None


def _runs(workspace: Path, dataset: str) -> dict[str, set[str]]:
    """The names of the runs that began, by plan."""
    root = workspace / "runs"
    found: dict[str, set[str]] = {}
    for pattern in ("*/*/fold_*/config.yaml", "*/*/*/fold_*/config.yaml"):
        for file in (root / dataset).glob(pattern):
            parts = file.parent.parent.relative_to(root).parts
            if _PREVIOUS not in parts:
                found.setdefault("/".join(parts[:-1]), set()).add(parts[-1])
    return found


def _queued_job(workspace: Path, folder: Path) -> str | None:
    """The job that a sweep submitted for the fold and that is still in SLURM's queue; None if there is none."""
    return job_of(Command((), training_log(workspace, folder))) if shutil.which("squeue") is not None else None


def _judge(folder: Path, *, trained: bool, validated: bool) -> tuple[Status, str]:
    attempt = read_attempt(folder)
    if attempt is not None and attempt.exit_code != 0:
        return _judge_attempt(attempt, folder)
    if trained and validated:
        return "done", ""
    if trained:
        return "stopped", "trained; its validation is left"
    if (folder / "checkpoints").is_dir():
        return "stopped", "nothing says how it ended"
    return "missing", "its configuration is written, nothing ran" if (folder / "config.yaml").is_file() else ""


def _judge_attempt(attempt: Attempt, folder: Path) -> tuple[Status, str]:
    if attempt.exit_code is None:
        alive, where = _whereabouts(attempt, folder)
        return ("running" if alive else "failed"), where
    if attempt.stopped_by is not None:
        return "stopped", f"by {attempt.stopped_by}, after saving"
    return "failed", attempt.error or f"exit code {attempt.exit_code}"


def _whereabouts(attempt: Attempt, folder: Path) -> tuple[bool, str]:
    """Whether an attempt without an end still runs, as far as can be told, and how that is known."""
    job = f", SLURM job {attempt.slurm_job}" if attempt.slurm_job else ""
    alive = is_alive(attempt)
    if alive is not None:
        if alive:
            return True, f"process {attempt.process} on this machine{job}"
        return False, f"killed: process {attempt.process} is gone and wrote no end (out of memory, or kill -9){job}"
    silent = seconds_silent(folder)
    since = f"{silent:.0f} s" if silent < 120 else f"{silent / 60:.0f} min"
    if silent < SILENT_AFTER_SECONDS:
        return True, f"process {attempt.process} on {attempt.host}, last sign {since} ago{job}"
    return False, f"silent: process {attempt.process} on {attempt.host} gave its last sign {since} ago{job}"


def _command(workspace: Path, plan: str, folder: Path, status: Status) -> tuple[str, ...]:
    if status in ("done", "running", "impossible"):
        return ()
    if status != "missing" or (folder / "config.yaml").is_file():
        # The file holds every override that the run began with.
        return ("python", "-m", "segplan.jobs.train", str(folder / "config.yaml"))
    run, fold = folder.parent.name, folder.name.removeprefix("fold_")
    named = [] if run == DEFAULT_RUN else [f"run={run}"]
    return ("segplan", "train", f"plan={plan}", f"fold={fold}", *named, *workspace_word(workspace))


def _epochs_done(path: Path) -> int:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            epochs = [row.get("epoch") or "" for row in csv.DictReader(file)]
    except OSError:
        return 0
    return max((int(float(epoch)) for epoch in epochs if epoch), default=0)


def _mean_dice(summary: Mapping[str, Any]) -> float | None:
    values: Sequence[float] = [float(each["Dice"]) for each in summary["mean"].values()]
    occurring = [value for value in values if not math.isnan(value)]
    return math.fsum(occurring) / len(occurring) if occurring else None


def _node(file: Path, name: str) -> Mapping[str, Any]:
    """A top-level node of a YAML file; empty where there is none that can be read."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    node = content.get(name) if isinstance(content, dict) else None
    return node if isinstance(node, dict) else {}
