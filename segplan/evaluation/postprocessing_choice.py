"""Which postprocessing a cross-validation supports.

The rules are nnU-Net's (2.8.1): first the largest component of all foreground labels joined, which must raise the mean
Dice and lower that of no class; then, with several classes, the largest component of each, which must raise its own.
An option beyond them: components smaller than a volume go, class by class, where that raises the class's Dice.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.evaluation.components import classes_of, number_components
from segplan.evaluation.folder import run_cases
from segplan.evaluation.metrics import Targets, confusion_counts
from segplan.evaluation.pairs import CasePair
from segplan.evaluation.postprocessing import (
    KEEP_LARGEST,
    REMOVE_SMALL,
    Step,
    apply_postprocessing,
    classes_by_mask,
    disjoint,
    voxel_volume,
)
from segplan.evaluation.summary import mean_of_known

_MOST_VOLUMES = 32  # that are tried for each class

MeanDice = Mapping[str, float]
"""By target key, over the cases where the target occurs; NaN where it never does."""
Score = Callable[[Sequence[Step], Sequence[Step]], Sequence[MeanDice]]


@dataclass(frozen=True)
class PostprocessingChoice:
    """What was decided.

    Args:
        steps: those accepted, in order.
        tried: each step that was tried, whether it was accepted, and the Dice that decided before and after it.
    """

    steps: tuple[Step, ...]
    tried: tuple[tuple[Step, bool, float, float], ...]


def choose_postprocessing(score: Score, labels: Labels) -> PostprocessingChoice:
    """Decide by nnU-Net's rules.

    Args:
        score: given steps and trials, the mean Dice after the steps and that after each trial on top of them
            (`score_trials`).
        labels: the dataset's.
    """
    everything = Step(KEEP_LARGEST, labels.foreground_labels)
    before, after = score((), (everything,))
    accepted = _improves_the_mean(before, after)
    steps = (everything,) if accepted else ()
    tried = [(everything, accepted, _plain_mean(before), _plain_mean(after))]
    targets = Targets.from_labels(labels).values
    trials = [(key, Step(KEEP_LARGEST, members)) for key, members in targets.items()] if len(targets) > 1 else []
    # What is done to one label changes no other label's Dice, so all are tried at once; regions overlap.
    for group in [[trial] for trial in trials] if labels.has_regions else [trials] if trials else []:
        now, *results = score(steps, [step for _, step in group])
        for (key, step), result in zip(group, results, strict=True):
            tried.append((step, result[key] > now[key], now[key], result[key]))
            if result[key] > now[key]:
                steps = (*steps, step)
    return PostprocessingChoice(steps, tuple(tried))


def score_trials(
    pairs: Sequence[CasePair],
    targets: Targets,
    steps: Sequence[Step],
    trials: Sequence[Step],
    num_workers: int | None = None,
) -> list[dict[str, float]]:
    """Mean Dice of every target after steps, and after these and each of some trials by itself; each case read once.

    Args:
        pairs: the cases.
        targets: what is evaluated.
        steps: postprocessing that comes first.
        trials: each is tried by itself after `steps`.
        num_workers: processes; None chooses.

    Returns:
        By target key, as in summary.json, for `steps` and then for each trial.
    """
    arguments = [(pair, targets, tuple(steps), tuple(trials)) for pair in pairs]
    tables: list[NDArray[np.float64]] = run_cases(_dice_table, arguments, num_workers)
    return [
        {
            key: mean_of_known([float(table[row, column]) for table in tables])
            for column, key in enumerate(targets.values)
        }
        for row in range(1 + len(trials))
    ]


def choose_small_components(
    pairs: Sequence[CasePair], labels: Labels, steps: Sequence[Step] = (), num_workers: int | None = None
) -> PostprocessingChoice:
    """For each class the smallest volume of a component that raises the class's mean Dice most, if one does.

    The volume is chosen on the cases that score it, so the score after it is somewhat optimistic. What is removed of
    one region is missing in those around it, so of regions the mean over all must rise too.

    Args:
        pairs: the cases.
        labels: the dataset's.
        steps: postprocessing that comes first.
        num_workers: processes; None chooses.

    Returns:
        The steps to add to `steps`.
    """
    targets = Targets.from_labels(labels)
    steps_before, chosen = tuple(steps), list[Step]()
    tried: list[tuple[Step, bool, float, float]] = []
    masks = list(targets.values.values())
    groups = [range(index, index + 1) for index in range(len(masks))] if labels.has_regions else [range(len(masks))]
    for group in groups:
        now = (*steps_before, *chosen)
        arguments = [(pair, masks[group.start : group.stop], targets.ignore, now) for pair in pairs]
        cases: list[list[_Table]] = run_cases(_component_tables, arguments, num_workers)
        for place, index in enumerate(group):
            volume, old, new = _best_volume([case[place] for case in cases])
            if not volume:
                continue
            step = Step(REMOVE_SMALL, masks[index], volume)
            accepted = not labels.has_regions or _raises_the_mean(
                score_trials(pairs, targets, now, [step], num_workers)
            )
            chosen += [step] if accepted else []
            tried.append((step, accepted, old, new))
    return PostprocessingChoice(tuple(chosen), tuple(tried))


@dataclass(frozen=True)
class _Table:
    """The components of a target in a case: volumes in mm³, voxels, those of them that are right; and the reference."""

    volumes: NDArray[np.float64]
    voxels: NDArray[np.int64]
    hits: NDArray[np.int64]
    reference: int


def _improves_the_mean(before: MeanDice, after: MeanDice) -> bool:
    worse = any(after[key] < value for key, value in before.items())
    return _plain_mean(after) > _plain_mean(before) and not worse


def _raises_the_mean(scores: Sequence[MeanDice]) -> bool:
    """Whether the mean over the targets that occur rises from the first to the second."""
    before, after = (mean_of_known(list(each.values())) for each in scores)
    return after > before


def _plain_mean(values: MeanDice) -> float:
    """nnU-Net's: NaN if one target never occurs."""
    return math.fsum(values.values()) / len(values) if values else math.nan


def _dice_table(
    pair: CasePair, targets: Targets, steps: tuple[Step, ...], trials: tuple[Step, ...]
) -> NDArray[np.float64]:
    """Dice (1 + trials, targets) of a case after `steps`, and after each trial by itself on top of them."""
    prediction, reference, spacing = pair.read()
    first = apply_postprocessing(prediction, spacing, steps)
    counts = confusion_counts(first, reference, targets)
    table = np.empty((1 + len(trials), len(targets.values)))
    table[:] = [each.dice for each in counts.values()]
    places = {key: column for column, key in enumerate(targets.values)}
    for group in disjoint([trial.labels for trial in trials]):
        left = apply_postprocessing(first, spacing, trials[group.start : group.stop])
        is_gone = left != first
        removed, truth = first[is_gone], reference[is_gone]
        for index in group:
            own = np.isin(removed, trials[index].labels)
            touched = targets.only(trials[index].labels)
            lost = confusion_counts(removed[own], truth[own], touched)
            found = confusion_counts(np.zeros_like(removed[own]), truth[own], touched)
            for key in touched.values:
                table[1 + index, places[key]] = (counts[key] - lost[key] + found[key]).dice
    return table


def _component_tables(
    pair: CasePair, masks: Sequence[tuple[int, ...]], ignore: int | None, steps: tuple[Step, ...]
) -> list[_Table]:
    """The components of each mask in a case; the masks share no label."""
    prediction, reference, spacing = pair.read()
    classes = classes_by_mask(apply_postprocessing(prediction, spacing, steps), masks)
    truth = classes_by_mask(reference, masks)
    counted = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    numbers, count = number_components(classes)
    class_of = classes_of(classes, numbers, count)
    sizes, voxels, hits = (
        np.bincount(each, minlength=count + 1)[1:]
        for each in (numbers.ravel(), numbers[counted], numbers[counted & (truth == classes)])
    )
    references = np.bincount(truth[counted], minlength=len(masks) + 1)
    volumes = voxel_volume(spacing) * sizes.astype(np.float64)
    return [
        _Table(volumes[own], voxels[own], hits[own], int(references[number]))
        for number in range(1, len(masks) + 1)
        for own in [class_of == number]
    ]


def _best_volume(tables: Sequence[_Table]) -> tuple[float, float, float]:
    """The smallest volume with the best mean Dice (0: none is better than no removal), and Dice without and with it."""
    old = _mean_dice(tables, 0.0)
    best, dice = 0.0, old
    for volume in _volumes(tables):
        if (new := _mean_dice(tables, volume)) > dice:
            best, dice = volume, new
    return best, old, dice


def _volumes(tables: Sequence[_Table]) -> Iterator[float]:
    """Volumes to try, ascending: a little above those of components, evenly among these."""
    volumes = np.unique(np.concatenate([table.volumes for table in tables]))
    if len(volumes) > _MOST_VOLUMES:
        volumes = volumes[np.linspace(0, len(volumes) - 1, _MOST_VOLUMES).round().astype(int)]
    for volume in volumes:
        digits = 2 - math.floor(math.log10(volume))
        yield float(round(float(volume) + 10.0**-digits, digits))


def _mean_dice(tables: Sequence[_Table], volume: float) -> float:
    """Mean over the cases where the target is in the reference or still in the prediction; -1 if there is none."""
    values = []
    for table in tables:
        kept = table.volumes >= volume
        total = int(table.voxels[kept].sum()) + table.reference
        if total:
            values.append(2 * int(table.hits[kept].sum()) / total)
    return math.fsum(values) / len(values) if values else -1.0
