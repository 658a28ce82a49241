"""Evaluates a folder of predictions (or one file) against references."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from segplan.dataset.labels import Labels
from segplan.errors import ImageError, Problem, VerificationError, WorkerError
from segplan.evaluation.metrics import Targets, case_metrics
from segplan.evaluation.renumbering import read_renumbering, renumber
from segplan.evaluation.spatial_metrics import MetricSettings, spatial_metrics
from segplan.evaluation.summary import CaseResult, summarize
from segplan.imaging import IMAGE_ENDINGS, Image, read_label_map, split_ending
from segplan.imaging.image import corner_shift
from segplan.preprocessing import available_cpus

_SPACING_TOLERANCE = 1e-3  # relative: roundings of headers between tools are smaller
_LARGEST_SHIFT = 0.5  # voxels: beyond it, voxels of the same index cover mostly different tissue
_FEW_CASES = 16  # fewer are read sooner than processes start


@dataclass(frozen=True)
class Pair:
    """A case's prediction and reference, and the case's identifier."""

    identifier: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Evaluation:
    """The summary in nnU-Net's shape, what was evaluated, and what the user should know of."""

    summary: dict[str, Any]
    targets: Targets
    notes: tuple[Problem, ...]


def evaluate_folder(
    prediction: Path,
    reference: Path,
    labels: Labels | Targets | None = None,
    label_map: Path | None = None,
    num_workers: int | None = None,
    *,
    settings: MetricSettings | None = None,
) -> Evaluation:
    """Evaluate every case of a folder.

    Args:
        prediction: folder of label maps, or one file.
        reference: folder of label maps of the same cases (the ending may differ), or one file.
        labels: what to evaluate; None: every value but 0 found in the references.
        label_map: YAML file {predicted value: reference value}; values that it lacks become background.
        num_workers: processes; 0 evaluates in this one. None chooses by the number of cases and processors.
        settings: metrics beyond the overlap; None: none.

    Raises:
        VerificationError: cases without a partner, files that cannot be read, or grids that differ: all at once.
        ConfigError: the label map file is wrong.
        WorkerError: a process died.
    """
    pairs = match_cases(prediction, reference)
    targets = labels if isinstance(labels, Targets) else None if labels is None else Targets.from_labels(labels)
    workers = _choose_workers(len(pairs), num_workers)
    if targets is None:
        found = run_cases(_reference_values, [(pair,) for pair in pairs], workers)
        _raise_problems([item for item in found if isinstance(item, Problem)], reference)
        targets = Targets.from_values([value for item in found if not isinstance(item, Problem) for value in item])
    renumbering = None if label_map is None else read_renumbering(label_map, known_values(targets))
    outcomes = run_cases(evaluate_pair, [(pair, targets, renumbering, settings) for pair in pairs], workers)
    problems = [problem for outcome in outcomes for problem in outcome[1]]
    _raise_problems(problems, prediction)
    summary = summarize([result for result, _ in outcomes if result is not None])
    return Evaluation(summary, targets, tuple(problems))


def match_cases(prediction: Path, reference: Path) -> list[Pair]:
    """Pair the files of two folders by case identifier, sorted; or the two files.

    Raises:
        VerificationError: a folder is missing or empty, an identifier is there twice, or a file has no partner.
    """
    if prediction.is_file() and reference.is_file():
        return [Pair(split_ending(prediction.name)[0], prediction, reference)]
    problems: list[Problem] = []
    predictions = _cases_of(prediction, "prediction", problems)
    references = _cases_of(reference, "reference", problems)
    if not problems:
        for identifier in sorted(predictions.keys() ^ references.keys()):
            lacking = "reference" if identifier in predictions else "prediction"
            folder = reference if identifier in predictions else prediction
            problems.append(
                Problem(
                    identifier, f"there is no {lacking} in {folder}", f"Add the {lacking}, or take the other file away."
                )
            )
    _raise_problems(problems, prediction)
    return [Pair(identifier, predictions[identifier], references[identifier]) for identifier in sorted(predictions)]


def known_values(targets: Targets) -> set[int]:
    """Every value that a label map may have: 0, the targets' members and ignore."""
    values = {0, *(value for members in targets.values.values() for value in members)}
    return values if targets.ignore is None else {*values, targets.ignore}


def evaluate_pair(
    pair: Pair, targets: Targets, renumbering: Mapping[int, int] | None, settings: MetricSettings | None = None
) -> tuple[CaseResult | None, list[Problem]]:
    """Evaluate one case; what is wrong with it comes back as problems."""
    try:
        prediction, reference = read_label_map(pair.prediction), read_label_map(pair.reference)
    except ImageError as error:
        return None, [_unreadable(pair, error)]
    problems = list(_grid_problems(pair.identifier, prediction, reference))
    if problems:
        return None, problems
    predicted = prediction.array if renumbering is None else renumber(prediction.array, renumbering)
    problems += _value_problems(pair.identifier, predicted, targets)
    metrics = case_metrics(predicted, reference.array, targets)
    if settings is not None and settings.groups:
        spatial = spatial_metrics(predicted[0], reference.array[0], reference.spacing, targets, settings)
        metrics = {key: values | spatial[key] for key, values in metrics.items()}
    return CaseResult(metrics, str(pair.prediction), str(pair.reference)), problems


def _reference_values(pair: Pair) -> list[int] | Problem:
    """The values that occur in the reference."""
    try:
        return [int(value) for value in np.unique(read_label_map(pair.reference).array)]
    except ImageError as error:
        return _unreadable(pair, error)


def _unreadable(pair: Pair, error: ImageError) -> Problem:
    what = f"{error.where}: {error.what}" if error.where else error.what
    return Problem(pair.identifier, what, error.remedy or "Mend or replace the file.")


def _grid_problems(identifier: str, prediction: Image, reference: Image) -> Iterable[Problem]:
    """Differences of shape, spacing, origin or direction that make a comparison by index wrong."""
    shape, other = prediction.array.shape[1:], reference.array.shape[1:]
    spacing, other_spacing = prediction.spacing, reference.spacing
    remedy = "Evaluate predictions on the grid of the reference: resample them, or take those of the same image."
    if shape != other:
        yield Problem(
            identifier, f"the prediction has {_times(shape)} voxels (z×y×x), the reference {_times(other)}", remedy
        )
        return
    if prediction.geometry.dimension != reference.geometry.dimension or prediction.geometry.dimension == 2:
        return  # pictures have no place in space, and 2D files of other formats lose it
    if not np.allclose(spacing, other_spacing, rtol=_SPACING_TOLERANCE, atol=0):
        what = f"the prediction's spacing is {_times(spacing)} mm (z×y×x), the reference's {_times(other_spacing)}"
        yield Problem(identifier, what, remedy)
        return
    shift = corner_shift(reference.geometry, prediction.geometry, shape[::-1])
    if shift > _LARGEST_SHIFT:
        what = f"origin or direction of prediction and reference differ (by up to {shift:.1f} voxels)"
        yield Problem(identifier, what, remedy)


def _value_problems(identifier: str, predicted: np.ndarray, targets: Targets) -> Iterable[Problem]:
    """A note on predicted values that no target has."""
    unknown = sorted({int(value) for value in np.unique(predicted)} - known_values(targets))
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (", …" if len(unknown) > 8 else "")
        remedy = "They count as background. If they are numbered otherwise, give label_map=FILE.yaml."
        yield Problem(
            identifier, f"the prediction has values that the reference's labels lack: {shown}", remedy, fatal=False
        )


def _cases_of(folder: Path, kind: str, problems: list[Problem]) -> dict[str, Path]:
    """The image files of a folder by case identifier."""
    if not folder.is_dir():
        remedy = "Give two folders, or two files."
        problems.append(Problem(None, f"the {kind} folder {folder} does not exist or is no folder", remedy))
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(IMAGE_ENDINGS) or not path.is_file():
            continue
        identifier = split_ending(path.name)[0]
        if identifier in found:
            what = f"there are two {kind}s: {found[identifier].name} and {path.name}"
            problems.append(Problem(identifier, what, "Take one of them away."))
        found[identifier] = path
    if not found:
        what = f"the {kind} folder {folder} holds no image"
        problems.append(Problem(None, what, f"Known endings: {', '.join(IMAGE_ENDINGS)}."))
    return found


def _raise_problems(problems: Sequence[Problem], where: Path) -> None:
    if any(problem.fatal for problem in problems):
        raise VerificationError(problems, where)


def _choose_workers(cases: int, wanted: int | None) -> int:
    if wanted is not None:
        return min(wanted, cases)
    return 0 if cases < _FEW_CASES else min(available_cpus(), 8)


def run_cases(function: Any, arguments: Sequence[tuple[Any, ...]], workers: int | None) -> list[Any]:
    """Results of the calls in order, by a pool of processes or, with no workers, one after another here.

    Args:
        function: may be pickled.
        arguments: of each call, with the case first.
        workers: processes; None chooses by the number of cases and processors.

    Raises:
        WorkerError: a process died.
    """
    workers = _choose_workers(len(arguments), workers)
    if workers <= 0:
        return [function(*each) for each in arguments]
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures: list[Future[Any]] = [pool.submit(function, *each) for each in arguments]
            return [future.result() for future in futures]
    except BrokenProcessPool as error:
        remedy = "Mostly the system ended it for memory: use num_workers=0."
        raise WorkerError("a process died while it evaluated a case", None, remedy) from error


def _times(values: Sequence[float]) -> str:
    return "×".join(f"{value:.6g}" for value in values)
