"""The parts of a report that say how a run came about: curves, time, plan, commands, versions."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from segplan.planning.explanation import Decision, Explanation
from segplan.planning.yaml_text import short
from segplan.reporting.charts import number
from segplan.reporting.curves import Line, line_chart
from segplan.reporting.page import chart, css_colour, table
from segplan.reporting.report_data import FoldLook, RunLook
from segplan.reporting.style import class_colour

_ABSENT = "–"
_HOUR, _MINUTE = 3600, 60
_MEMORY_COLUMNS = ("gpu_memory_gb", "memory_gb", "peak_memory_gb", "cpu_memory_gb")


def curve_results(run: RunLook) -> list[str]:
    """Loss, patch Dice and learning rate of every fold over the epochs."""
    folds = [fold for fold in run.folds if fold.epochs > 1]
    if not folds:
        return ["<h3>Training</h3>", "<p>No epoch-by-epoch record (metrics.csv) of two epochs or more is here.</p>"]
    charts = [
        line_chart(
            [*_lines(folds, "train_loss", "training"), *_lines(folds, "val_loss", "validation", dashed=True)],
            "loss (dashed: validation patches)",
            "epoch",
        ),
        line_chart(_lines(folds, "patch_dice", "patch Dice"), "patch Dice (not the whole cases' Dice)", "epoch"),
        line_chart(_lines(folds, "epoch_s", "seconds"), "seconds an epoch", "epoch"),
    ]
    legend = "".join(
        f'<span><span class="key" style="background:{_colour(place)}"></span>fold {escape(fold.fold)}</span>'
        for place, fold in enumerate(folds)
    )
    shown = "".join(chart(each) for each in charts if each)
    return ["<h3>Training</h3>", f'<div class="legend">{legend}</div>', f'<div class="charts">{shown}</div>']


def time_results(run: RunLook) -> list[str]:
    """Time, speed and memory of every fold."""
    rows = []
    for fold in run.folds:
        epochs = _ABSENT if fold.max_epochs is None else f"{fold.epochs} of {fold.max_epochs}"
        state = escape(fold.status) + (f' <span class="dim">{escape(fold.detail[:200])}</span>' if fold.detail else "")
        memory = next((value for key in _MEMORY_COLUMNS if (value := _peak(fold, key)) is not None), None)
        rows.append(
            [
                f"fold {escape(fold.fold)}",
                state,
                epochs,
                duration(fold.seconds) if fold.epochs else _ABSENT,
                _middle(fold, "epoch_s", "s"),
                _middle(fold, "samples_per_s", ""),
                _middle(fold, "waiting_share", "%"),
                _ABSENT if memory is None else f"{memory:.1f} GB",
                escape(fold.machine) or _ABSENT,
            ]
        )
    heads = ["", "state", "epochs", "training", "an epoch", "patches/s", "waiting", "memory", "machine"]
    total = math.fsum(fold.seconds for fold in run.folds)
    text = f"All folds together trained for {duration(total)}; medians over the epochs." if total else ""
    if run.memory_gb is not None:
        text += f" Training was planned to need about {run.memory_gb:.2g} GB."
    return ["<h3>Time and memory</h3>", f"<p>{text}</p>", table(heads, rows, "twnnnnnnw", stacks=False)]


def plan_results(run: RunLook) -> list[str]:
    """What was planned, each value with the sentence that says why."""
    if run.explanation is None:
        return []
    plan = run.explanation
    rows = [[escape(key), f"<code>{escape(value)}</code>", escape(reason)] for key, value, reason in _decisions(plan)]
    about = f"{plan.images}. Planned by the planner {plan.planner} from {plan.num_cases} cases, without a person."
    parts = [f"<p>{escape(about)}</p>", table(["", "value", "why"], rows, "tww", stacks=True)]
    if plan.differences:
        edited = [
            [
                escape(item.key),
                f"<code>{escape(short(item.present))}</code>",
                escape(f"by the rules {short(item.planned)}"),
            ]
            for item in plan.differences
        ]
        parts += ["<p>Changed by a person, or planned by another version:</p>"]
        parts += [table(["", "value", ""], edited, "tww", stacks=True)]
    return ["<details><summary>The plan, and why</summary>", *parts, "</details>"]


def command_results(run: RunLook) -> list[str]:
    """The commands, versions and configuration that the run came from."""
    parts = ["<details><summary>Commands, versions and configuration</summary>"]
    commands = list(dict.fromkeys(fold.command for fold in run.folds if fold.command))
    if commands:
        parts += [f"<pre>{escape(chr(10).join(commands))}</pre>"]
    else:
        parts += ["<p>The folders do not say which commands were called.</p>"]
    versions = {name: {fold.versions.get(name, "") for fold in run.folds if fold.versions} for name in _packages(run)}
    if versions:
        rows = [[escape(name), escape(", ".join(sorted(each - {""})))] for name, each in versions.items()]
        parts.append(table(["software", "version"], rows, "tt"))
    if run.config:
        parts += ["<p>The whole configuration of the first fold; the others differ in the fold:</p>"]
        parts.append(f"<pre>{escape(run.config)}</pre>")
    return [*parts, "</details>"]


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `4 h 05 min`."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    hours, rest = divmod(round(seconds / _MINUTE), 60)
    return f"{hours} h {rest:02d} min"


def _lines(folds: Sequence[FoldLook], column: str, name: str, *, dashed: bool = False) -> list[Line]:
    return [
        Line(
            f"fold {fold.fold}, {name}",
            _colour(place),
            list(zip(fold.curves["epoch"], fold.curves[column], strict=True)),
            dashed,
        )
        for place, fold in enumerate(folds)
        if column in fold.curves
    ]


def _colour(place: int) -> str:
    return css_colour(class_colour((2, 0, 1, 3, 4, 5, 6, 7, 8, 9)[place % 10] + 1))


def _known(fold: FoldLook, column: str) -> list[float]:
    return [value for value in fold.curves.get(column, ()) if not math.isnan(value)]


def _middle(fold: FoldLook, column: str, unit: str) -> str:
    values = _known(fold, column)
    if not values:
        return _ABSENT
    middle = float(np.median(values))
    return f"{100 * middle:.0f} %" if unit == "%" else f"{number(middle)} {unit}".strip()


def _peak(fold: FoldLook, column: str) -> float | None:
    values = _known(fold, column)
    return max(values) if values else None


def _packages(run: RunLook) -> list[str]:
    return list(dict.fromkeys(name for fold in run.folds for name in fold.versions))


def _decisions(plan: Explanation) -> list[tuple[str, str, str]]:
    def rows(decisions: Sequence[Decision]) -> list[tuple[str, str, str]]:
        return [(each.key.rpartition(".")[2].replace("_", " "), short(each.value), each.reason) for each in decisions]

    patch = "×".join(map(str, plan.patch.steps[-1].patch_size))
    size = f"{plan.parameters / 1e6:.1f} M parameters"
    return [
        *rows([*plan.resolution, *plan.intensities]),
        ("patch size", patch, plan.patch.reason),
        ("batch size", str(plan.batch.chosen), plan.batch.reason),
        *rows(plan.network),
        ("network", size, f"about {plan.memory_gb:.2g} GB in training"),
        *rows(plan.training),
    ]
