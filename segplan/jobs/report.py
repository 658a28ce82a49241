"""The job `segplan report`: one HTML page about a run, or about all runs of a dataset."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segplan.errors import ConfigError, SegplanError
from segplan.evaluation import Selection, Step, mean_over_occurring
from segplan.imaging import atomic_write
from segplan.jobs.fold_states import fold_states, planned_configurations, read_summary
from segplan.jobs.report_gather import Explain, case_identifier, gather_ensemble, gather_run
from segplan.reporting.report_data import ReportLook, RunLook, SelectionLook
from segplan.reporting.report_page import report_page

_MOST_ILLUSTRATED = 3  # runs with pictures: more make the page slow to open


def run(
    target: str,
    output: Path | None,
    workspace: Path,
    explain: Explain,
    command: Sequence[str],
    *,
    selection_file: Path | None = None,
) -> int:
    """Write the page; returns the exit code.

    Args:
        target: a run's folder, or DATASET[/NAME][/CONFIGURATION[/RUN]].
        output: the page; None: DATASET_report.html in the working folder.
        workspace: the workspace's folder; a run's folder brings its own.
        explain: says how a plan came about, in a workspace: `explain(address)`.
        command: the words that called this, for the page.
        selection_file: what `segplan select` wrote; None: the dataset's inference.yaml, if there is one.

    Raises:
        ConfigError: there is no such run, or the named selection cannot be read.
    """
    workspace, runs = find_runs(target, workspace)
    dataset = runs[0][0].split("/")[0]
    looks = _best_first([gather_run(workspace, plan, name, explain, pictures=0) for plan, name in runs])
    each = 2 if len(looks) > 1 else 3
    shown = [gather_run(workspace, look.plan, look.run, explain, each) for look in looks[:_MOST_ILLUSTRATED]]
    looks[:_MOST_ILLUSTRATED] = shown
    path = output or Path(f"{dataset}_report.html")
    description, count = _describe(workspace, runs[0][0])
    made = f"Made on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    # One run alone is not what a selection is about.
    group = runs[0][0].rpartition("/")[0]
    selected = None
    if selection_file is not None or len(runs) > 1 or not Path(target).is_dir():
        selected = _selection(workspace, group, selection_file)
    if selected is not None and (ensemble := _ensemble(workspace, *selected, each)) is not None:
        looks.insert(0, ensemble)
    selection = None if selected is None else selected[1]
    report = ReportLook(dataset, description, made, shlex.join(command), looks, selection, count)
    with atomic_write(path) as temporary:
        temporary.write_text(report_page(report), encoding="utf-8")
    for look in looks:
        _print(look)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def find_runs(target: str, workspace: Path) -> tuple[Path, list[tuple[str, str]]]:
    """The workspace and the (plan, run) pairs that `target` means.

    Raises:
        ConfigError: there are none.
    """
    folder = Path(target).expanduser().absolute()
    if folder.name.startswith("fold_"):
        folder = folder.parent
    if any(folder.glob("fold_*/config.yaml")):
        parts = folder.parts
        place = len(parts) - 1 - parts[::-1].index("runs") if "runs" in parts else 0
        if place and 3 <= len(parts) - place - 1 <= 4:
            return Path(*parts[:place]), [("/".join(parts[place + 1 : -1]), parts[-1])]
        raise ConfigError("is no run of a workspace", folder, "Name WORKSPACE/runs/DATASET/CONFIGURATION/RUN.")
    words = target.strip("/").split("/")
    if folder.is_dir() and (runs := next((each for each in folder.parents if each.name == "runs"), None)) is not None:
        workspace, words = runs.parent, list(folder.relative_to(runs).parts)
    states = fold_states(workspace, words[0])
    pairs = list(dict.fromkeys((state.plan, state.run) for state in states if state.folder.is_dir()))
    chosen = [pair for pair in pairs if f"{pair[0]}/{pair[1]}/".startswith("/".join(words) + "/")]
    if chosen:
        return workspace, chosen
    known = sorted({path.name for path in (workspace / "runs").glob("*/")})
    planned = ", ".join(planned_configurations(workspace, words[0]))
    if planned:
        remedy = f"Train one: segplan train plan={planned.split(', ')[0]} fold=0."
    else:
        remedy = f"Trained: {', '.join(known)}." if known else "Train a model, or name its workspace: workspace=DIR."
    raise ConfigError("nothing is trained", f"{target} in {workspace}", remedy)


def _best_first(looks: list[RunLook]) -> list[RunLook]:
    def key(look: RunLook) -> tuple[int, float, str]:
        mean = mean_over_occurring(look.summary()) if look.cases else math.nan
        return (len(look.validated) == 0, math.inf if math.isnan(mean) else -mean, look.title)

    return sorted(looks, key=key)


def _describe(workspace: Path, plan: str) -> tuple[str, int | None]:
    """A line about the dataset and the number of its training cases, from the copy beside the plan."""
    from segplan.jobs.plan_description import read_plan_description

    try:
        description = read_plan_description((workspace / "plan" / plan).parent / "dataset.json")
    except SegplanError:
        return "", None
    raw = description.raw
    licence = raw.get("licence") or raw.get("license")
    words = [str(raw.get("description") or ""), ", ".join(description.channel_names), str(licence or "")]
    count = raw.get("numTraining")
    return " · ".join(word for word in words if word), count if isinstance(count, int) else None


def _selection(workspace: Path, group: str, named: Path | None) -> tuple[Selection, SelectionLook] | None:
    """What `segplan select` wrote for the dataset, where it can be read."""
    from segplan.evaluation.selection_file import SELECTION_FILE, read_selection, summaries_file

    path = named or workspace / "runs" / group / SELECTION_FILE
    try:
        selection = read_selection(path)
    except SegplanError:
        if named is not None:
            raise
        return None
    compared = _compared(summaries_file(path))
    members = [
        f"{member.plan}, run {member.run}, folds {', '.join(map(str, member.folds))}, {member.checkpoint} weights"
        for member in selection.members
    ]
    names = _class_names(workspace, group)
    steps = [_in_words(step, names) for step in selection.postprocessing]
    look = SelectionLook(
        members,
        steps,
        selection.scores,
        path.name,
        candidates=compared.get("candidates") or {},
        best=str(compared.get("best") or ""),
        metric=str(compared.get("metric") or "Dice"),
        after=compared.get("best_after_postprocessing"),
        outdated=_is_outdated(workspace, selection, compared.get("candidates") or {}),
    )
    return selection, look


def _ensemble(workspace: Path, selection: Selection, look: SelectionLook, pictures: int) -> RunLook | None:
    """The look of the selected model where it is an ensemble whose scores are at hand."""
    summary = look.candidates.get(look.best)
    if len(selection.members) < 2 or summary is None:
        return None
    return gather_ensemble(workspace, selection.members[0], look.best, summary, pictures)


def _is_outdated(workspace: Path, selection: Selection, candidates: Mapping[str, Any]) -> bool:
    """Whether a selected model's cases have other scores by now than when it was selected."""
    for member in selection.members:
        decided = candidates.get(member.plan.partition("/")[2])
        run = workspace / "runs" / member.plan / member.run
        now = [read_summary(run / f"fold_{fold}" / "validation" / "summary.json") for fold in member.folds]
        if decided is None or None in now:
            continue
        if _scores([decided]) != _scores([each for each in now if each is not None]):
            return True
    return False


def _scores(summaries: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The Dice of every class by case, as text, in which NaN equals NaN."""
    cases = [case for summary in summaries for case in summary["metric_per_case"]]
    return {
        case_identifier(str(case["prediction_file"])): [repr(each["Dice"]) for each in case["metrics"].values()]
        for case in cases
    }


def _class_names(workspace: Path, group: str) -> dict[tuple[int, ...], str]:
    """Names of classes and regions by their labels; empty where the dataset.json beside the plan is gone."""
    from segplan.jobs.plan_description import read_plan_description

    try:
        labels = read_plan_description(workspace / "plan" / group / "dataset.json").labels
    except SegplanError:
        return {}
    return {members: name for name, members in labels.targets.items()} | {
        labels.foreground_labels: "all classes joined"
    }


def _in_words(step: Step, names: Mapping[tuple[int, ...], str]) -> str:
    """`keep largest component: kidney`, `remove small components: lesion, below 30 mm³`."""
    labels = f"label{'s' if len(step.labels) > 1 else ''} {', '.join(map(str, step.labels))}"
    size = "" if step.min_volume_mm3 is None else f", below {step.min_volume_mm3:g} mm³"
    return f"{step.operation.replace('_', ' ')}: {names.get(step.labels, labels)}{size}"


def _compared(path: Path) -> dict[str, Any]:
    """The summaries that a selection leaves beside it; empty where they are gone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _print(look: RunLook) -> None:
    done = sum(fold.status == "done" for fold in look.folds)
    folds = f"{done} of {len(look.folds)} folds done, " if look.folds else ""
    mean = f"Dice {mean_over_occurring(look.summary()):.4f}, {len(look.cases)} cases" if look.cases else "no scores yet"
    print(f"{look.title}: {folds}{mean}")
    for note in look.notes:
        print(f"  {note}")
