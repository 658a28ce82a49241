"""From folds to a decision: the best configuration or ensemble and its postprocessing, as inference.yaml."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from segplan.errors import ConfigError
from segplan.evaluation import (
    LOWER_IS_BETTER,
    CasePair,
    MetricSettings,
    PostprocessingChoice,
    Selection,
    Step,
    Targets,
    bootstrap_interval,
    choose_postprocessing,
    choose_small_components,
    holm,
    paired_p_value,
    score_of,
    score_pairs,
    score_trials,
    scores_of_cases,
    write_selection,
)
from segplan.evaluation.selection_file import SELECTION_FILE, summaries_file
from segplan.imaging import atomic_write
from segplan.jobs.console import print_table, workspace_word
from segplan.jobs.cross_validation import (
    Trained,
    average_pair,
    check_room,
    check_same_cases,
    find_trained,
    probability_bytes,
    unfinished_folds,
    validate_again,
)
from segplan.jobs.evaluate import metric_settings
from segplan.jobs.jobs_table import Compose

METRICS: Mapping[str, tuple[str, str | None]] = {
    "dice": ("Dice", None),
    "iou": ("IoU", None),
    "nsd": ("NSD", "nsd"),
    "hd95": ("HD95", "hd95"),
    "assd": ("ASSD", "assd"),
    "lesionf1": ("LesionF1", "lesions"),
}
"""What may decide: its name in summary.json, and the group of metrics that brings it."""


@dataclass(frozen=True)
class Request:
    """What to compare, and how.

    Args:
        workspace: the workspace's folder.
        dataset: DATASET, or DATASET/NAME for the plans of one name.
        metric: what decides, one of `METRICS`.
        nsd_tolerance: mm, or by class: "liver:3".
        configurations: none: all that are trained.
        run: name of the trainings.
        folds: none: all of the dataset's.
        ensembles: whether pairs are averaged too; needs probabilities on disk.
        small_components: whether a smallest component size is chosen for each class too.
        output: the file to write; None: WORKSPACE/runs/DATASET/inference.yaml.
        num_workers: processes; None chooses.
    """

    workspace: Path
    dataset: str
    metric: str = "dice"
    nsd_tolerance: str = "2"
    configurations: tuple[str, ...] = ()
    run: str = "default"
    folds: tuple[str, ...] = ()
    ensembles: bool = True
    small_components: bool = False
    output: Path | None = None
    num_workers: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A configuration or an ensemble, with its out-of-fold predictions and their summary."""

    trained: tuple[Trained, ...]
    pairs: tuple[CasePair, ...]
    summary: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For tables."""
        return " + ".join(each.name for each in self.trained)


def run(request: Request, compose: Compose | None = None) -> int:
    """Compare, decide, print and write inference.yaml and, beside it, a JSON file with all summaries.

    Args:
        request: what to compare, and how.
        compose: gives the training configuration of a plan, for the commands that train missing folds.

    Returns:
        The exit code, 0.

    Raises:
        RunError: folds are missing, or configurations cannot be compared.
        ConfigError: the metric is unknown.
        StorageError: the disk has no room for probabilities.
    """
    metric, settings = _metric(request)
    folds = _folds(request.folds)
    path = _selection_file(request)
    chosen = request.configurations
    trained = find_trained(request.workspace, request.dataset, request.run, chosen, folds, compose=compose)
    check_same_cases(trained)
    _complete(trained, request)
    candidates = _candidates(trained, request, metric_settings(settings, request.nsd_tolerance, 0.0, trained[0].labels))
    best = best_of([score_of(each.summary, metric) for each in candidates], lower=metric in LOWER_IS_BETTER)
    rows = comparison_rows(candidates, best, metric)
    print_table(rows[0], rows[1:])
    winner = candidates[best]
    choice, after = _postprocessing(winner, request)
    _print_postprocessing(choice, winner.trained[0])
    _write(path, request, candidates, winner, metric=metric, choice=choice, after=after)
    print(f"best: {winner.name}. Written: {path}")
    words = ["python", "predict.py", f"inference={path}", "input=FOLDER", "output=FOLDER"]
    print(f"Next: {shlex.join([*words, *workspace_word(request.workspace)])}")
    return 0


def best_of(scores: Sequence[float], *, lower: bool = False) -> int:
    """Index of the best score; of equal ones the first. What has no score (NaN) never wins.

    Raises:
        ConfigError: none has a score.
    """
    known = [(-score if lower else score, -index) for index, score in enumerate(scores) if not math.isnan(score)]
    if not known:
        raise ConfigError("no class occurs in any case, so nothing can be compared", remedy="Look at the references.")
    return -max(known)[1]


def comparison_rows(candidates: Sequence[Candidate], best: int, metric: str) -> list[list[str]]:
    """The table: header, then each candidate with its score, interval, nnU-Net's mean and the paired test."""
    of_best = scores_of_cases(candidates[best].summary, metric)
    others = [index for index in range(len(candidates)) if index != best]
    raw = [paired_p_value(scores_of_cases(candidates[index].summary, metric), of_best) for index in others]
    p_values = dict(zip(others, holm(raw), strict=True))
    rows = [["candidate", f"mean {metric}", "95 % interval", "all classes", "p against the best", ""]]
    for index, each in enumerate(candidates):
        low, high = bootstrap_interval(each.summary, metric)
        plain = each.summary["foreground_mean"][metric]
        p_value = "" if index == best else f"{p_values[index]:.3g}"
        mark = "best" if index == best else ""
        score = score_of(each.summary, metric)
        rows.append([each.name, f"{score:.4f}", f"{low:.4f} to {high:.4f}", f"{plain:.4f}", p_value, mark])
    return rows


def _metric(request: Request) -> tuple[str, tuple[str, ...]]:
    word = request.metric.lower()
    if word not in METRICS:
        raise ConfigError(f"there is no metric {request.metric}", "metric", f"Use {', '.join(METRICS)}.")
    name, group = METRICS[word]
    return name, () if group is None else (group,)


def _selection_file(request: Request) -> Path:
    path = request.output or request.workspace / "runs" / request.dataset / SELECTION_FILE
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError("is no YAML file", f"output={path}", "Name one: output=inference.yaml.")
    if path.is_dir():
        raise ConfigError("is a folder", f"output={path}", "Name a file: output=inference.yaml.")
    return path


def _folds(words: Sequence[str]) -> tuple[int, ...]:
    wrong = [word for word in words if not word.isdigit()]
    if wrong:
        raise ConfigError(f"{wrong[0]} is no fold", "folds", "Write folds=[0,1,2].")
    return tuple(int(word) for word in words)


def _complete(trained: Sequence[Trained], request: Request) -> None:
    """Make label maps and probabilities that are missing from the folds' weights."""
    probabilities = request.ensembles and len(trained) > 1
    lacking = {each.name: unfinished_folds(each, probabilities=probabilities) for each in trained}
    if probabilities and any(lacking.values()):
        needed = sum(probability_bytes(each, lacking[each.name]) for each in trained)
        check_room(needed, request.workspace)
    for each in trained:
        validate_again(each, lacking[each.name], probabilities=probabilities)


def _candidates(trained: Sequence[Trained], request: Request, settings: MetricSettings) -> list[Candidate]:
    targets = Targets.from_labels(trained[0].labels)
    sources: list[tuple[tuple[Trained, ...], list[CasePair]]] = [((each,), each.pairs()) for each in trained]
    for first, second in combinations(trained, 2) if request.ensembles else ():
        name = "+".join(each.name.replace("/", "-") for each in (first, second))
        folder = request.workspace / "runs" / request.dataset / "ensembles" / f"{name}_{request.run}"
        sources.append(((first, second), average_pair(first, second, folder)))
    result = []
    for members, pairs in sources:
        summary = score_pairs(pairs, targets, settings=settings, num_workers=request.num_workers)
        result.append(Candidate(members, tuple(pairs), summary))
    return result


def _postprocessing(winner: Candidate, request: Request) -> tuple[PostprocessingChoice, Mapping[str, Any]]:
    """The steps that the cross-validation supports, and the summary after them."""
    labels = winner.trained[0].labels
    targets = Targets.from_labels(labels)

    def score(steps: Sequence[Step], trials: Sequence[Step]) -> list[dict[str, float]]:
        return score_trials(winner.pairs, targets, steps, trials, request.num_workers)

    choice = choose_postprocessing(score, labels)
    if request.small_components:
        more = choose_small_components(winner.pairs, labels, choice.steps, request.num_workers)
        choice = PostprocessingChoice((*choice.steps, *more.steps), (*choice.tried, *more.tried))
    return choice, score_pairs(winner.pairs, targets, steps=choice.steps, num_workers=request.num_workers)


def _print_postprocessing(choice: PostprocessingChoice, trained: Trained) -> None:
    names = {members: name for name, members in trained.labels.targets.items()}
    rows = []
    for step, accepted, before, after in choice.tried:
        what = names.get(step.labels, f"labels {', '.join(map(str, step.labels))}")
        size = "" if step.min_volume_mm3 is None else f" below {step.min_volume_mm3:g} mm³"
        rows.append([f"{step.operation}{size}", what, f"{before:.4f}", f"{after:.4f}", "yes" if accepted else "no"])
    print_table(["postprocessing", "of", "Dice before", "after", "taken"], rows)


def _write(
    path: Path,
    request: Request,
    candidates: Sequence[Candidate],
    winner: Candidate,
    *,
    metric: str,
    choice: PostprocessingChoice,
    after: Mapping[str, Any],
) -> None:
    scores = {
        "metric": metric,
        "cases": len(winner.pairs),
        "candidates": {each.name: score_of(each.summary, metric) for each in candidates},
        "interval_95": list(bootstrap_interval(winner.summary, metric)),
        "dice_before_postprocessing": score_of(winner.summary),
        "dice_after_postprocessing": score_of(after),
        "dice_by_class": {
            name: after["mean"][key]["Dice"]
            for key, name in Targets.from_labels(winner.trained[0].labels).names.items()
        },
    }
    members = tuple(each.member for each in winner.trained)
    dataset = request.dataset.partition("/")[0]
    words = ["python", "predict.py", f"inference={path}", "input=FOLDER", "output=FOLDER"]
    header = [f"What the cross-validation of {request.dataset} decided (segplan select).", "", shlex.join(words)]
    write_selection(path, Selection(dataset, members, choice.steps, scores), header)
    summaries = {each.name: each.summary for each in candidates}
    report = {"best": winner.name, "metric": metric, "candidates": summaries, "best_after_postprocessing": after}
    with atomic_write(summaries_file(path)) as temporary:
        temporary.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
