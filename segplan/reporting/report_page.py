"""The report page: how good the models of a dataset are, and how they came about."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from segplan import __version__
from segplan.evaluation import mean_over_occurring
from segplan.reporting.page import page, table, tile
from segplan.reporting.report_data import ClassLook, ReportLook, RunLook, SelectionLook
from segplan.reporting.report_results import (
    case_results,
    class_results,
    exact,
    fold_results,
    picture_results,
    score,
    volume_results,
)
from segplan.reporting.report_training import command_results, curve_results, duration, plan_results, time_results
from segplan.reporting.sortable import Cell, sortable_table

_MOST_CLASSES = 8  # columns of a table over configurations


def report_page(look: ReportLook) -> str:
    """The HTML of the page."""
    several = len(look.runs) > 1
    parts = [
        f"<h1>{escape(look.dataset).replace('_', '_<wbr>')}</h1>",
        f'<p class="dim">{escape(look.description)}</p>',
        _tiles(look),
        *(_overview(look) if several else []),
        *(_selection(look.selection, _classes(look)) if look.selection is not None else []),
    ]
    for place, run in enumerate(look.runs):
        body = run_section(run, place)
        if several:
            opened = " open" if place == 0 else ""
            parts += [f'<details class="run"{opened}><summary>{escape(run.title)}</summary>', *body, "</details>"]
        else:
            parts += [f"<h2>{escape(run.title)}</h2>", *body]
    parts.append(
        f"<footer>Made by segplan {escape(__version__)}: <code>{escape(look.command)}</code><br>{escape(look.made)}<br>"
        "Validation within one dataset says how well the model does on data like these; other scanners, sites and "
        "patients need a test of their own. Not a medical device. This page is one file that loads nothing; it shows "
        "slices of the images.</footer>"
    )
    return page(f"{look.dataset} · report", parts, sorts=True)


def run_section(run: RunLook, number_on_page: int = 0) -> list[str]:
    """Everything about one run."""
    parts = [f"<p>{escape(note)}</p>" for note in run.notes]
    if run.cases:
        parts += class_results(run)
        parts += fold_results(run)
        parts += picture_results(run, number_on_page)
        parts += case_results(run)
        parts += volume_results(run)
    if not run.folds:  # an ensemble trains nothing itself
        return parts
    parts += curve_results(run)
    parts += time_results(run)
    parts += plan_results(run)
    return [*parts, *command_results(run)]


def _tiles(look: ReportLook) -> str:
    tiles = []
    best = next((run for run in look.runs if run.cases), None)
    if best is not None:
        summary = best.summary()
        tiles.append(tile(score(mean_over_occurring(summary)), f"mean Dice ({best.title})"))
        tiles.append(tile(str(len(best.cases)), "cases evaluated"))
    if look.case_count is not None:
        tiles.append(tile(str(look.case_count), "training cases"))
    done = sum(fold.status == "done" for run in look.runs for fold in run.folds)
    total = sum(len(run.folds) for run in look.runs)
    tiles.append(tile(f"{done} of {total}", "folds done", "good" if done == total else "note"))
    seconds = math.fsum(fold.seconds for run in look.runs for fold in run.folds)
    if seconds:
        tiles.append(tile(duration(seconds), "training time"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _classes(look: ReportLook) -> Sequence[ClassLook]:
    return next((run.classes for run in look.runs if run.cases), ())


def _overview(look: ReportLook) -> list[str]:
    classes = _classes(look)
    rows = []
    for run in look.runs:
        done = sum(fold.status == "done" for fold in run.folds)
        seconds = math.fsum(fold.seconds for fold in run.folds)
        summary = run.summary() if run.cases else None
        mean = math.nan if summary is None else mean_over_occurring(summary)
        rows.append(
            [
                Cell(escape(run.title), run.title),
                Cell(f"<b>{score(mean)}</b>", exact(mean)),
                *(_class_cell(summary, each.key) for each in classes[:_MOST_CLASSES]),
                Cell(f"{done} of {len(run.folds)}" if run.folds else "–", str(done)),
                Cell(str(len(run.cases)), str(len(run.cases))),
                Cell(duration(seconds) if seconds else "–", repr(seconds)),
            ]
        )
    heads = [
        "configuration",
        "mean Dice",
        *(escape(each.name) for each in classes[:_MOST_CLASSES]),
        "folds done",
        "cases",
        "training",
    ]
    counts = {len(run.cases) for run in look.runs if run.cases}
    text = "Means over the validation cases of all folds that are done."
    if len(counts) > 1:
        text += " They are not of the same cases yet: compare them when all folds are done."
    return ["<h2>Configurations</h2>", f"<p>{text}</p>", sortable_table(heads, rows, "t" + "n" * (len(heads) - 1))]


def _class_cell(summary: Mapping[str, Any] | None, key: str, metric: str = "Dice") -> Cell:
    value = math.nan if summary is None else summary["mean"].get(key, {}).get(metric, math.nan)
    return Cell(score(value), exact(value))


def _candidates(selection: SelectionLook, classes: Sequence[ClassLook]) -> list[str]:
    """What was compared, and the chosen one after postprocessing."""
    named = sorted(selection.candidates.items(), key=lambda each: each[0] != selection.best)
    if selection.after is not None and selection.postprocessing:
        named.append((f"{selection.best}, after postprocessing", selection.after))
    rows = []
    for name, summary in named:
        mean = mean_over_occurring(summary, selection.metric)
        mark = ' <span class="tag good">chosen</span>' if name == selection.best else ""
        cells = [_class_cell(summary, each.key, selection.metric) for each in classes[:_MOST_CLASSES]]
        rows.append([Cell(escape(name) + mark, name), Cell(f"<b>{score(mean)}</b>", exact(mean)), *cells])
    heads = ["candidate", f"mean {escape(selection.metric)}", *(escape(each.name) for each in classes[:_MOST_CLASSES])]
    return [sortable_table(heads, rows, "t" + "n" * (len(heads) - 1))]


def _selection(selection: SelectionLook, classes: Sequence[ClassLook]) -> list[str]:
    members = "".join(f"<li>{escape(member)}</li>" for member in selection.members)
    steps = "".join(f"<li>{escape(step)}</li>" for step in selection.postprocessing)
    about = "One model" if len(selection.members) == 1 else f"An ensemble of {len(selection.members)} models"
    parts = [
        "<h2>Selected model</h2>",
        f"<p>{about}, as <code>{escape(selection.file)}</code> has it for predict.py:</p><ul>{members}</ul>",
        f"<p>Its label maps are then cleaned:</p><ul>{steps}</ul>" if steps else "<p>Without postprocessing.</p>",
    ]
    if selection.outdated:
        parts.append("<p><b>A model was trained again since this was decided: run segplan select again.</b></p>")
    if selection.candidates:
        parts += _candidates(selection, classes)
    rows = list(_score_rows(selection.scores))
    if rows:
        parts += ["<details><summary>What decided</summary>", table(["", "value"], rows, "tn"), "</details>"]
    return parts


def _score_rows(scores: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> list[list[str]]:
    """Nested plain values as lines of path and value."""
    pairs = scores.items() if isinstance(scores, Mapping) else enumerate(scores)
    rows: list[list[str]] = []
    for key, value in pairs:
        name = f"{prefix} · {key}" if prefix else str(key)
        if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(each, Mapping) for each in value)):
            rows += _score_rows(value, name)
        else:
            text = "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append([escape(name), escape(text)])
    return rows
