"""Gather what a report shows of a run: from its folders, its plan, and the case store where that is at hand."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from segplan.dataset import Labels
from segplan.errors import SegplanError
from segplan.evaluation import Member, Targets
from segplan.imaging import Geometry, split_ending
from segplan.jobs.fold_states import FoldState, read_summary, run_states
from segplan.jobs.plan_node import labels_of, store_folder
from segplan.jobs.report_pictures import LABELS_ENDING, draw_cases, open_case
from segplan.planning.explanation import Explanation
from segplan.preprocessing import CaseStore, StoredCase
from segplan.reporting.case_shots import choose_cases
from segplan.reporting.report_data import CaseScore, ClassLook, FoldLook, Illustrated, RunLook
from segplan.reporting.style import class_colour
from segplan.reporting.thumbnail import target_number

Explain = Callable[[str], Explanation]
_MM3_A_ML = 1000.0
_ON_ALL = "all"


def gather_run(workspace: Path, plan: str, run: str, explain: Explain, pictures: int = 2) -> RunLook:
    """Everything the report shows of one run.

    Args:
        workspace: the workspace's folder.
        plan: DATASET/[NAME/]CONFIGURATION.
        run: its name.
        explain: says how a plan came about; may raise a `SegplanError`.
        pictures: how many worst, median and best cases are drawn each.
    """
    states = run_states(workspace, plan, run)
    notes: list[str] = []
    folds = [_fold(state) for state in states]
    text, labels, store = _begun(workspace, states, notes)
    cases = [case for state in states if state.fold != _ON_ALL for case in _cases(state, store)]
    unfinished = [state.fold for state in states if not state.validated]
    if any(state.fold == _ON_ALL and state.validated for state in states):
        notes.append("Fold all was trained on the very cases that it is scored on: its scores are left out.")
    if not cases:
        notes.insert(0, "No fold of this run is validated yet, so there are no scores.")
    elif unfinished:
        noun = "fold" if len(unfinished) == 1 else "folds"
        notes.insert(0, f"Not yet validated, so not in the numbers: {noun} {', '.join(unfinished)}.")
    illustrated: list[Illustrated] = []
    if labels is not None and store is not None and cases:
        chosen = choose_cases([(f"{case.fold}/{case.identifier}", case.dice) for case in cases], pictures)
        folder = workspace / "runs" / plan / run
        illustrated = draw_cases(lambda case: folder / f"fold_{case.fold}" / "validation", cases, chosen, store, labels)
        if left_out := len(chosen) - len(illustrated):
            notes.append(f"{left_out} of the cases to be shown have no label map or image here any more.")
    explanation = None
    try:
        explanation = explain(plan)
    except SegplanError as error:
        notes.append(f"How the plan came about cannot be told: {error.what}.")
    return RunLook(
        plan,
        run,
        _classes(labels, cases),
        folds,
        cases,
        illustrated,
        explanation,
        None if explanation is None else explanation.memory_gb,
        text,
        notes,
    )


def gather_ensemble(
    workspace: Path, member: Member, name: str, summary: Mapping[str, Any], pictures: int = 2
) -> RunLook:
    """Everything the report shows of an ensemble: the cases that `segplan select` averaged, and what they score.

    Args:
        workspace: the workspace's folder.
        member: one of those whose probabilities it averages.
        name: of the ensemble, as the selection has it.
        summary: its scores, in the shape of summary.json.
        pictures: how many worst, median and best cases are drawn each.
    """
    states = run_states(workspace, member.plan, member.run)
    notes = ["Label maps of averaged probabilities, before postprocessing; the members' own parts follow."]
    _, labels, store = _begun(workspace, states, notes)
    known = {case.identifier: case for state in states if state.fold != _ON_ALL for case in _cases(state, store)}
    cases, folders = [], {}
    for entry in summary["metric_per_case"]:
        identifier = case_identifier(str(entry["prediction_file"]))
        if identifier in known:
            cases.append(replace(known[identifier], metrics=entry["metrics"]))
            folders[identifier] = Path(str(entry["prediction_file"])).parent
    illustrated: list[Illustrated] = []
    if labels is not None and store is not None and cases:
        chosen = choose_cases([(f"{case.fold}/{case.identifier}", case.dice) for case in cases], pictures)
        illustrated = draw_cases(lambda case: folders[case.identifier], cases, chosen, store, labels)
    dataset = member.plan.partition("/")[0]
    return RunLook(f"{dataset}/{name}", member.run, _classes(labels, cases), (), cases, illustrated, notes=notes)


def _begun(
    workspace: Path, states: Sequence[FoldState], notes: list[str]
) -> tuple[str, Labels | None, CaseStore | None]:
    """The configuration of the first fold that began, as text, its labels and its preprocessed cases."""
    started = next((state for state in states if (state.folder / "config.yaml").is_file()), None)
    if started is None:
        return "", None, None
    text = (started.folder / "config.yaml").read_text(encoding="utf-8")
    config = _yaml(text)
    if "plan" not in config:
        return text, None, None
    return text, labels_of(config["plan"]), _store(workspace, config["plan"], notes)


def case_identifier(prediction_file: str) -> str:
    """The case of a label map's path, as summary.json has it."""
    name = PurePosixPath(prediction_file.replace("\\", "/")).name
    return name.removesuffix(LABELS_ENDING) if name.endswith(LABELS_ENDING) else split_ending(name)[0]


def read_curves(path: Path) -> dict[str, list[float]]:
    """The columns of a metrics.csv; cells without a number are NaN; none where there is no file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("epoch")]
    except OSError:
        return {}
    names = list(rows[0]) if rows else []
    return {name: [_number(row.get(name)) for row in rows] for name in names if name}


def _fold(state: FoldState) -> FoldLook:
    from segplan.jobs.provenance import read_provenance

    record = read_provenance(state.folder)
    starts = record.get("starts")
    start = starts[-1] if isinstance(starts, list) and starts and isinstance(starts[-1], dict) else {}
    versions = {str(key): str(value) for key, value in dict(start.get("versions") or {}).items()}
    if start.get("git"):
        versions["git revision"] = str(start["git"])
    return FoldLook(
        state.fold,
        state.status,
        state.detail,
        state.max_epochs,
        read_curves(state.folder / "metrics.csv"),
        str(record.get("command") or ""),
        versions,
        _machine(start.get("hardware")),
    )


def _machine(hardware: object) -> str:
    if not isinstance(hardware, dict):
        return ""
    gpus = hardware.get("gpus") or []
    parts = [str(hardware.get("processor") or ""), f"{hardware.get('cores')} cores" if hardware.get("cores") else ""]
    return ", ".join(part for part in (*map(str, gpus), *parts) if part)


def _cases(state: FoldState, store: CaseStore | None) -> list[CaseScore]:
    summary = read_summary(state.folder / "validation" / "summary.json")
    found = []
    for entry in summary["metric_per_case"] if summary is not None else ():
        identifier = case_identifier(str(entry["prediction_file"]))
        stored = open_case(store, identifier)
        volume = None if stored is None else _voxel_ml(stored)
        found.append(CaseScore(identifier, state.fold, entry["metrics"], volume))
    return found


def _classes(labels: Labels | None, cases: Sequence[CaseScore]) -> list[ClassLook]:
    keys = list(cases[0].metrics) if cases else []
    names = {} if labels is None else dict(Targets.from_labels(labels).names)
    declared = [] if labels is None else list(labels.targets)
    looks = []
    for place, key in enumerate(keys or names, start=1):
        name = names.get(key, f"label {key}")
        number = declared.index(name) + 1 if name in declared else place
        if labels is not None and labels.has_regions and labels.regions_class_order is not None and name in declared:
            number = _painted_number(labels, declared.index(name))
        looks.append(ClassLook(key, name, class_colour(number)))
    return looks


def _painted_number(labels: Labels, place: int) -> int:
    """The number whose colour the region at `place` is drawn in."""
    order = labels.indexed.regions_class_order
    painted = target_number(labels)
    return painted.get(order[place], place + 1) if order is not None and place < len(order) else place + 1


def _store(workspace: Path, plan: Mapping[str, Any], notes: list[str]) -> CaseStore | None:
    store = CaseStore(store_folder(workspace, plan))
    reason = "the preprocessed cases are not in this workspace"
    try:
        if store.identifiers():
            return store
    except (SegplanError, OSError) as error:
        reason = f"the preprocessed cases cannot be read ({error})"
    notes.append(f"Without pictures, and sizes in voxels: {reason}.")
    return None


def _voxel_ml(case: StoredCase) -> float | None:
    geometry = Geometry.from_json(case.properties.geometry)
    return None if geometry.dimension == 2 else math.prod(abs(step) for step in geometry.spacing) / _MM3_A_ML


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _yaml(text: str) -> dict[str, Any]:
    import yaml

    content = yaml.safe_load(text)
    return content if isinstance(content, dict) else {}
