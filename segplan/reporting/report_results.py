"""The parts of a report that say how good a run is: classes, folds, cases, volumes, pictures."""

import base64
import math
from collections.abc import Sequence
from html import escape

import numpy as np

from segplan.evaluation import cases_counted, mean_over_occurring
from segplan.reporting.case_shots import Shot
from segplan.reporting.charts import Row, box_chart, number
from segplan.reporting.curves import Point, scatter_chart
from segplan.reporting.page import chart, css_colour, keyed, table
from segplan.reporting.report_data import CaseScore, ClassLook, Illustrated, RunLook
from segplan.reporting.sortable import Cell, sortable_table

_MOST_COLUMNS = 12
_MOST_BOXES = 120
_MOST_VOLUME_CHARTS = 9
_WHOLE = (128, 136, 146)
_ABSENT = "–"
_FAR = 1.5  # quartile ranges beyond the box: what counts as an outlier
_SHOWN_METRICS = ("Dice", "IoU", "HD95", "ASSD", "NSD")


def exact(value: float) -> str:
    """A number as it stands in summary.json, "" for NaN: what tables sort by and programs read."""
    return "" if math.isnan(value) else repr(float(value))


def score(value: float) -> str:
    """A Dice for people."""
    return _ABSENT if math.isnan(value) else f"{value:.4f}"


def class_results(run: RunLook) -> list[str]:
    """A table and a box chart of each class's Dice over all cases."""
    summary = run.summary()
    rows = []
    for each in run.classes:
        values = [case.metrics[each.key]["Dice"] for case in run.cases]
        found = [value for value in values if not math.isnan(value)]
        low, middle = (min(found), float(np.median(found))) if found else (math.nan, math.nan)
        mean = summary["mean"][each.key]
        worst = next((case.identifier for case in run.cases if case.metrics[each.key]["Dice"] == low), "")
        rows.append(
            [
                Cell(keyed(each.colour, each.name), each.name),
                Cell(score(mean["Dice"]), exact(mean["Dice"])),
                Cell(score(middle), exact(middle)),
                Cell(f'{score(low)} <span class="dim">{escape(worst)}</span>', exact(low)),
                Cell(score(mean["IoU"]), exact(mean["IoU"])),
                Cell(str(cases_counted(summary, each.key)), str(cases_counted(summary, each.key))),
            ]
        )
    mean, plain = mean_over_occurring(summary), summary["foreground_mean"]["Dice"]
    rows.append(
        [
            Cell("<b>mean</b>", "￿"),
            Cell(f"<b>{score(mean)}</b>", exact(mean)),
            *[Cell("", "")] * 2,
            Cell(score(mean_over_occurring(summary, "IoU")), exact(mean_over_occurring(summary, "IoU"))),
            Cell(str(len(run.cases)), str(len(run.cases))),
        ]
    )
    heads = ["class", "mean Dice", "median", "worst", "mean IoU", "cases"]
    text = (
        "Dice is twice the overlap of prediction and reference over the sum of their sizes: 1 is perfect, 0 none. "
        "Whole cases, each segmented by a network that was not trained on it. A case where a class is in neither the "
        "reference nor the prediction does not count for that class."
    )
    parts = [f"<p>{text}</p>", sortable_table(heads, rows, "tnnnnn")]
    if math.isnan(plain) and not math.isnan(mean):
        parts.append("<p>A class occurs in no case: the mean is over the others; in summary.json it is NaN.</p>")
    boxes = [row for each in run.classes[:_MOST_BOXES] if (row := _box_row(run.cases, each)) is not None]
    if len(boxes) > 1:
        boxes.append(_row("mean of the classes", _WHOLE, [(case.dice, case.identifier) for case in run.cases]))
    if boxes:
        parts.append(f'<div class="charts" style="margin-top:.8rem">{chart(box_chart(boxes, "by class", "Dice"))}')
        parts.append(f"{_fold_boxes(run)}</div>")
        parts.append("<p>A box holds half of the cases, its line nine in ten; rings are the cases beyond.</p>")
    return parts


def fold_results(run: RunLook) -> list[str]:
    """The classes' mean Dice fold by fold."""
    if len(run.validated) < 2:
        return []
    shown = run.classes[:_MOST_COLUMNS]
    rows = []
    for fold in [*run.validated, None]:
        summary = run.summary(fold)
        mean = mean_over_occurring(summary)
        cells = [Cell(score(v := summary["mean"][each.key]["Dice"]), exact(v)) for each in shown]
        count = len(summary["metric_per_case"])
        name = "all" if fold is None else fold
        rows.append([Cell(f"fold {name}" if fold else "<b>all cases</b>", name), Cell(str(count), str(count))])
        rows[-1] += [Cell(f"<b>{score(mean)}</b>", exact(mean)), *cells]
    heads = ["fold", "cases", "mean", *(keyed(each.colour, each.name) for each in shown)]
    means = [mean_over_occurring(run.summary(fold)) for fold in run.validated]
    spread = (
        f"The folds' means differ by up to {max(means) - min(means):.4f}." if all(map(math.isfinite, means)) else ""
    )
    more = "" if len(shown) == len(run.classes) else f" The first {len(shown)} of {len(run.classes)} classes."
    return [
        "<h3>Fold by fold</h3>",
        f"<p>{spread}{more}</p>",
        sortable_table(heads, rows, "tn" + "n" * (1 + len(shown))),
    ]


def case_results(run: RunLook) -> list[str]:
    """Every case in a table that sorts, the worst first."""
    shown = run.classes[:_MOST_COLUMNS]
    ordered = sorted(run.cases, key=lambda case: (math.isnan(case.dice), case.dice, case.identifier))
    extra = [name for name in _SHOWN_METRICS[2:] if ordered and name in next(iter(ordered[0].metrics.values()), {})]
    rows = []
    for case in ordered:
        cells = [Cell(escape(case.identifier), case.identifier), Cell(case.fold, case.fold)]
        cells.append(Cell(f"<b>{score(case.dice)}</b>", exact(case.dice)))
        for each in shown:
            values = case.metrics[each.key]
            cells.append(Cell(score(values["Dice"]), exact(values["Dice"])))
            cells += [Cell(score(values[name]), exact(values[name])) for name in extra]
            cells += [_size_cell(values[key], case.voxel_ml) for key in ("n_ref", "n_pred")]
        rows.append(cells)
    unit = "ml" if any(case.voxel_ml is not None for case in run.cases) else "voxels"
    heads = ["case", "fold", "mean Dice"]
    for each in shown:
        heads += [
            keyed(each.colour, each.name),
            *(f"{name}" for name in extra),
            f"reference {unit}",
            f"predicted {unit}",
        ]
    more = "" if len(shown) == len(run.classes) else f" The first {len(shown)} of {len(run.classes)} classes."
    text = f"The worst first; press a head to sort by it.{more}"
    kinds = "tt" + "n" * (len(heads) - 2)
    return ["<h3>Case by case</h3>", f"<p>{text}</p>", sortable_table(heads, rows, kinds)]


def volume_results(run: RunLook) -> list[str]:
    """Predicted against reference sizes, a chart and a line of a table for each class."""
    charts: list[str] = []
    rows: list[list[str]] = []
    unit = "ml" if any(case.voxel_ml is not None for case in run.cases) else "voxels"
    for each in run.classes:
        pairs = [(case, *_sizes(case, each)) for case in run.cases]
        pairs = [pair for pair in pairs if pair[1] or pair[2]]
        both = [(expected, found) for _, expected, found in pairs if expected]
        if not pairs:
            continue
        if len(charts) < _MOST_VOLUME_CHARTS:
            points = [
                Point(
                    expected,
                    found,
                    css_colour(each.colour),
                    f"{case.identifier}: reference {number(expected)}, predicted {number(found)} {unit}",
                )
                for case, expected, found in pairs
            ]
            charts.append(chart(scatter_chart(points, f"{each.name}: predicted {unit}", f"reference {unit}")))
        errors = [100 * (found - expected) / expected for expected, found in both]
        rows.append(
            [
                keyed(each.colour, each.name),
                number(float(np.median([expected for expected, _ in both]))) if both else _ABSENT,
                f"{np.median(errors):+.1f} %" if errors else _ABSENT,
                f"{np.median(np.abs(errors)):.1f} %" if errors else _ABSENT,
                str(sum(not found for _, expected, found in pairs if expected)),
                str(sum(not expected for _, expected, found in pairs if found)),
            ]
        )
    if not rows:
        return []
    heads = [
        "class",
        f"median reference {unit}",
        "median error",
        "median size of the error",
        "missed",
        "found where there is none",
    ]
    text = (
        "On the dashed line both are equal; above it the prediction is too large. Errors are relative to the reference."
    )
    return [
        "<h3>Volumes</h3>",
        f"<p>{text}</p>",
        table(heads, rows, "tnnnnn"),
        f'<div class="charts" style="margin-top:.8rem">{"".join(charts)}</div>',
    ]


def picture_results(run: RunLook, number_on_page: int = 0) -> list[str]:
    """Worst, median and best cases in three planes; the number tells this run's checkboxes from those of others."""
    if not run.pictures:
        return []
    text = (
        "The area in a class's colour is the prediction, the line is the reference. Slices that show most of the "
        "classes, cut to the structures and their surroundings, seen from the patient's feet, front or head up."
    )
    legend = "".join(f"<span>{keyed(each.colour, each.name)}</span>" for each in run.classes[:_MOST_BOXES])
    boxes = "".join(
        f'<input type="checkbox" class="hides-{kind}" id="{kind}{number_on_page}" checked> '
        f'<label for="{kind}{number_on_page}">{name}</label> '
        for kind, name in (("pred", "prediction"), ("ref", "reference"))
    )
    figures = "".join(_figure(each, run.classes) for each in run.pictures)
    return [
        "<h3>Worst, median and best cases</h3>",
        f"<p>{text}</p>",
        f'<div class="legend">{legend}</div>',
        boxes,
        f'<div class="planes">{figures}</div>',
    ]


def _figure(shown: Illustrated, classes: Sequence[ClassLook]) -> str:
    case = shown.case
    shots = "".join(_shot(shot, case.identifier) for shot in shown.shots)
    dice = [
        f"{each.name} {score(case.metrics[each.key]['Dice'])}"
        for each in classes
        if not math.isnan(case.metrics[each.key]["Dice"])
    ]
    words = ", ".join(dice[:_MOST_COLUMNS]) + (", …" if len(dice) > _MOST_COLUMNS else "")
    slices = " · ".join(shot.name for shot in shown.shots if shot.name)
    caption = f"<b>{escape(case.identifier)} · {shown.reason} · mean Dice {score(case.dice)}</b>{escape(words)}"
    return (
        f'<figure><div class="row">{shots}</div>'
        f"<figcaption>{caption}<br>{escape(slices)} · fold {escape(case.fold)}</figcaption></figure>"
    )


def _shot(shot: Shot, identifier: str) -> str:
    width, height = shot.size
    share = f"width:100%;max-width:{width}px;aspect-ratio:{width}/{height}"
    label = f"{shot.name} of {identifier}" if shot.name else identifier
    images = f'<img alt="{escape(label, quote=True)}" src="{_data("jpeg", shot.picture)}">'
    images += f'<img class="over pred" alt="" src="{_data("png", shot.prediction)}">'
    if shot.reference is not None:
        images += f'<img class="over ref" alt="" src="{_data("png", shot.reference)}">'
    return f'<div class="shot" style="flex-grow:{width / height:.3f}"><span style="{share}">{images}</span></div>'


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _box_row(cases: Sequence[CaseScore], each: ClassLook) -> Row | None:
    values = [(case.metrics[each.key]["Dice"], case.identifier) for case in cases]
    found = [(value, name) for value, name in values if not math.isnan(value)]
    return _row(each.name, each.colour, found) if found else None


def _row(name: str, colour: tuple[int, int, int], found: Sequence[tuple[float, str]]) -> Row:
    known = [(value, case) for value, case in found if not math.isnan(value)]
    low, first, middle, last, high = np.percentile([value for value, _ in known], (5, 25, 50, 75, 95)).tolist()
    beyond = sorted(((v, case) for v, case in known if v < low or v > high), key=lambda at: -abs(at[0] - middle))
    return Row(name, css_colour(colour), (low, first, middle, last, high), tuple(beyond))


def _fold_boxes(run: RunLook) -> str:
    if len(run.validated) < 2:
        return ""
    rows = []
    for fold in run.validated:
        found = [(case.dice, case.identifier) for case in run.cases if case.fold == fold and not math.isnan(case.dice)]
        if found:
            rows.append(_row(f"fold {fold}", _WHOLE, found))
    return chart(box_chart(rows, "by fold", "mean Dice")) if rows else ""


def _sizes(case: CaseScore, each: ClassLook) -> tuple[float, float]:
    """Reference and predicted volume in ml, or in voxels where the images tell no size."""
    unit = 1.0 if case.voxel_ml is None else case.voxel_ml
    return case.metrics[each.key]["n_ref"] * unit, case.metrics[each.key]["n_pred"] * unit


def _size_cell(voxels: float, voxel_ml: float | None) -> Cell:
    size = voxels if voxel_ml is None else voxels * voxel_ml
    return Cell(number(size), repr(float(size)))
