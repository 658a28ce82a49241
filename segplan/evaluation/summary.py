"""The summary of a set of cases in the shape of nnU-Net's summary.json."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segplan.evaluation.metrics import METRICS
from segplan.imaging import atomic_write, split_ending


@dataclass(frozen=True)
class CaseResult:
    """The metrics of one case by target key, and the files that were compared."""

    metrics: Mapping[str, Mapping[str, float]]
    prediction_file: str
    reference_file: str


def summarize(cases: Sequence[CaseResult]) -> dict[str, Any]:
    """Means over cases and over classes.

    A class's mean leaves out the cases where it is NaN (absent in reference and prediction). The mean over the
    foreground is the plain mean over the classes, so it is NaN if one class never occurs: nnU-Net 2.8.1's rule.

    Args:
        cases: results with the same targets.

    Returns:
        `foreground_mean`, `mean` by target, and `metric_per_case`.
    """
    keys = list(cases[0].metrics) if cases else []
    names = tuple(cases[0].metrics[keys[0]]) if keys else METRICS
    means = {key: {name: mean_of_known([case.metrics[key][name] for case in cases]) for name in names} for key in keys}
    foreground = {name: _mean([means[key][name] for key in keys]) for name in names}
    per_case = [
        {
            "metrics": {key: dict(case.metrics[key]) for key in keys},
            "prediction_file": case.prediction_file,
            "reference_file": case.reference_file,
        }
        for case in cases
    ]
    return {"foreground_mean": foreground, "mean": means, "metric_per_case": per_case}


def mean_over_occurring(summary: Mapping[str, Any], metric: str = "Dice") -> float:
    """Mean of a metric over the classes that occur; NaN if none does. For tables; summary.json keeps the plain mean."""
    return mean_of_known([float(values[metric]) for values in summary["mean"].values()])


def cases_counted(summary: Mapping[str, Any], key: str) -> int:
    """Number of cases in which the target occurs, in the reference or the prediction."""
    return sum(not math.isnan(case["metrics"][key]["Dice"]) for case in summary["metric_per_case"])


def mean_of_known(values: Sequence[float]) -> float:
    """Mean of what is not NaN; NaN where all is."""
    return _mean([value for value in values if not math.isnan(value)])


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json; keys are sorted, and NaN is written as NaN, both as nnU-Net does.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def write_csv(path: Path, summary: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Write the metrics of every case and target, a row each; undefined values are left empty.

    Args:
        path: of the file.
        summary: as of `summarize`.
        names: a name for each target key.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    rows = [
        (split_ending(Path(case["prediction_file"]).name)[0], names.get(key, key), key, values)
        for case in summary["metric_per_case"]
        for key, values in case["metrics"].items()
    ]
    metrics = list(rows[0][3]) if rows else list(METRICS)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", "label", *metrics])
        for case, name, key, values in rows:
            shown = ["" if math.isnan(values[metric]) else values[metric] for metric in metrics]
            writer.writerow([case, name, key, *shown])


def _mean(values: Sequence[float]) -> float:
    return float(math.fsum(values) / len(values)) if values else math.nan
