"""Compares predictions with references: writes summary.json and prints a table."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from segplan.dataset import Labels
from segplan.errors import ConfigError, DatasetError
from segplan.evaluation import (
    GROUPS,
    Evaluation,
    MetricSettings,
    Targets,
    cases_counted,
    evaluate_folder,
    mean_over_occurring,
    write_csv,
    write_summary,
)
from segplan.evaluation.metrics import METRICS
from segplan.jobs.console import is_terminal, print_table

_DEFAULT_TOLERANCE = "2"


def run(
    prediction: Path,
    reference: Path,
    output: Path | None = None,
    label_map: Path | None = None,
    dataset_json: Path | None = None,
    *,
    metrics: Sequence[str] = (),
    nsd_tolerance: str = _DEFAULT_TOLERANCE,
    lesion_overlap: float = 0.0,
    num_workers: int | None = None,
) -> int:
    """Evaluate a folder of predictions, or one file.

    Args:
        prediction: folder of label maps, or one file.
        reference: folder of label maps of the same cases, or one file.
        output: where summary.json goes: a folder, or a file that ends in .json. By default the prediction folder; for
            single files nothing is written by default.
        label_map: YAML file {predicted value: reference value}; values that it lacks become background.
        dataset_json: where labels and their names come from; by default dataset.json beside the reference folder, else
            every value found in the references is a class.
        metrics: groups of metrics beyond the overlap (`segplan.evaluation.GROUPS`), or "all".
        nsd_tolerance: mm, or by class: "liver:3,tumour:1" (others: 2 mm).
        lesion_overlap: share of a lesion that must be covered for it to count as found; 0: one voxel.
        num_workers: processes; None chooses.

    Returns:
        The exit code, 0.

    Raises:
        VerificationError: predictions and references do not fit each other.
        ConfigError: the label map is wrong.
        DatasetError: the dataset.json is wrong.
    """
    labels = _labels(reference, dataset_json)
    settings = metric_settings(metrics, nsd_tolerance, lesion_overlap, labels)
    evaluation = evaluate_folder(prediction, reference, labels, label_map, num_workers, settings=settings)
    target = _summary_path(prediction, output)
    if target is not None:
        write_summary(target, evaluation.summary)
        write_csv(target.with_suffix(".csv"), evaluation.summary, evaluation.targets.names)
    for note in evaluation.notes:
        print(f"{note.case}: {note.what}. {note.remedy}")
    columns, *rows = table_rows(evaluation)
    _show(columns, rows)
    if target is not None:
        print(f"written: {target} and {target.with_suffix('.csv').name}")
    return 0


def table_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """The table: heads (class, metrics, cases), a row for each class, then the mean over the classes that occur."""
    summary, rows = evaluation.summary, []
    shown = ("Dice", "IoU", *(name for name in summary["foreground_mean"] if name not in METRICS))
    for key, name in evaluation.targets.names.items():
        means = summary["mean"][key]
        label = name if name == f"label {key}" else f"{name} {key}"
        rows.append((label, *(_number(means[name]) for name in shown), str(cases_counted(summary, key))))
    means_of_all = [_number(mean_over_occurring(summary, name)) for name in shown]
    absent = sum(math.isnan(means["Dice"]) for means in summary["mean"].values())
    mean_name = "mean foreground" + (f" (without {absent} that never occur)" if absent else "")
    heads = ("class", *shown, "cases")
    return [heads, *rows, (mean_name, *means_of_all, str(len(summary["metric_per_case"])))]


def metric_settings(
    metrics: Sequence[str], nsd_tolerance: str, lesion_overlap: float, labels: Labels | None
) -> MetricSettings:
    """The settings that the words of the command line mean.

    Raises:
        ConfigError: there is no such metric or class, or a value is no number.
    """
    asked = [word.lower() for word in metrics if word.lower() not in ("dice", "iou")]
    groups = tuple(GROUPS) if "all" in asked else tuple(dict.fromkeys(asked))
    general, by_key = _tolerances(nsd_tolerance, None if labels is None else Targets.from_labels(labels))
    settings = MetricSettings(groups, general, by_key, lesion_overlap)
    for key, given, group in (
        ("nsd_tolerance", nsd_tolerance != _DEFAULT_TOLERANCE, "nsd"),
        ("lesion_overlap", lesion_overlap != MetricSettings().lesion_overlap, "lesions"),
    ):
        if given and group not in groups:
            raise ConfigError(f"is for {group}, which is not computed", key, f"Ask for {group}, or leave {key}= out.")
    return settings


def _tolerances(text: str, targets: Targets | None) -> tuple[float, dict[str, float]]:
    """The NSD's tolerance, mm, and those of single targets by key; without targets, these are named by their values."""
    keys = {} if targets is None else {name: key for key, name in targets.names.items()}
    general, by_key = MetricSettings().tolerance_mm, {}
    for entry in text.strip("{}[]").split(","):
        name, _, value = (part.strip() for part in entry.rpartition(":"))
        try:
            tolerance = float(value)
        except ValueError as error:
            raise ConfigError(f"{entry!r} is no distance", "nsd_tolerance", "Give mm, or class:mm,class:mm.") from error
        if not name:
            general = tolerance
        elif targets is None and not name.isdigit():
            remedy = "Name its value, such as 1:3, or give the names: dataset_json=FILE."
            raise ConfigError(f"nothing tells which label {name} is", "nsd_tolerance", remedy)
        elif targets is not None and name not in keys and name not in targets.values:
            raise ConfigError(f"there is no class {name}", "nsd_tolerance", f"There are {', '.join(keys)}.")
        else:
            by_key[keys.get(name, name)] = tolerance
    return general, by_key


def _labels(reference: Path, dataset_json: Path | None) -> Labels | None:
    """Labels of the given dataset.json, or of the one beside the reference folder if there is one."""
    folder = reference if reference.is_dir() else reference.parent
    found = [path for path in (folder.parent / "dataset.json", folder / "dataset.json") if path.is_file()]
    path = dataset_json or (found[0] if found else None)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError("cannot be read as JSON", path, "Give the dataset.json of the references.") from error
    if not isinstance(content, dict):
        raise DatasetError("holds no JSON object", path, "Give the dataset.json of the references.")
    return Labels.from_json(content)


def _summary_path(prediction: Path, output: Path | None) -> Path | None:
    if output is None:
        return prediction / "summary.json" if prediction.is_dir() else None
    return output if output.suffix == ".json" else output / "summary.json"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _show(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on a terminal, else aligned text."""
    if not is_terminal():
        print_table(columns, rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == "class" else "right")
    for index, row in enumerate(rows):
        table.add_row(*row, style="bold" if index == len(rows) - 1 else None)
    Console().print(table)
