"""Which postprocessing a cross-validation supports.

The rules are nnU-Net's (2.8.1): first the largest component of all foreground labels joined, which must raise the mean
Dice and lower that of no class; then, with several classes, the largest component of each, which must raise its own.
An option beyond them: components smaller than a volume go, class by class, where that raises the class's Dice.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.evaluation.folder import run_cases
from segplan.evaluation.metrics import Targets
from segplan.evaluation.pairs import CasePair
from segplan.evaluation.postprocessing import KEEP_LARGEST, REMOVE_SMALL, Step, apply_postprocessing, voxel_volume

_MOST_VOLUMES = 32  # that are tried for each class

Summary = Mapping[str, Any]
Score = Callable[[Sequence[Step], Sequence[Step]], Sequence[Summary]]


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
        score: given steps and trials, the summary after the steps and that after each trial on top of them
            (`score_pairs`).
        labels: the dataset's.
    """
    everything = Step(KEEP_LARGEST, labels.foreground_labels)
    before, after = score((), (everything,))
    accepted = _improves_the_mean(before, after)
    steps = (everything,) if accepted else ()
    tried = [(everything, accepted, before["foreground_mean"]["Dice"], after["foreground_mean"]["Dice"])]
    targets = Targets.from_labels(labels).values
    trials = [(key, Step(KEEP_LARGEST, members)) for key, members in targets.items()] if len(targets) > 1 else []
    # What is done to one label changes no other label's Dice, so all are tried at once; regions overlap.
    for group in [[trial] for trial in trials] if labels.has_regions else [trials] if trials else []:
        now, *results = score(steps, [step for _, step in group])
        for (key, step), result in zip(group, results, strict=True):
            old, new = now["mean"][key]["Dice"], result["mean"][key]["Dice"]
            tried.append((step, new > old, old, new))
            if new > old:
                steps = (*steps, step)
    return PostprocessingChoice(steps, tuple(tried))


def choose_small_components(
    pairs: Sequence[CasePair], labels: Labels, steps: Sequence[Step] = (), num_workers: int | None = None
) -> PostprocessingChoice:
    """For each class the smallest volume of a component that raises the class's mean Dice most, if one does.

    The volume is chosen on the cases that score it, so the score after it is somewhat optimistic.

    Args:
        pairs: the cases.
        labels: the dataset's.
        steps: postprocessing that comes first.
        num_workers: processes; None chooses.

    Returns:
        The steps to add to `steps`.
    """
    targets = Targets.from_labels(labels)
    cases = run_cases(_component_table, [(pair, targets, tuple(steps)) for pair in pairs], num_workers)
    chosen: list[Step] = []
    tried: list[tuple[Step, bool, float, float]] = []
    for key, members in targets.values.items():
        tables = [case[key] for case in cases]
        old = _mean_dice(tables, 0.0)
        best, dice = 0.0, old
        for volume in _volumes(tables):
            if (new := _mean_dice(tables, volume)) > dice:
                best, dice = volume, new
        if best:
            step = Step(REMOVE_SMALL, members, best)
            chosen.append(step)
            tried.append((step, True, old, dice))
    return PostprocessingChoice(tuple(chosen), tuple(tried))


@dataclass(frozen=True)
class _Table:
    """The components of a target in a case: volumes in mm³, voxels, those of them that are right; and the reference."""

    volumes: NDArray[np.float64]
    voxels: NDArray[np.int64]
    hits: NDArray[np.int64]
    reference: int


def _improves_the_mean(before: Summary, after: Summary) -> bool:
    worse = any(after["mean"][key]["Dice"] < values["Dice"] for key, values in before["mean"].items())
    return bool(after["foreground_mean"]["Dice"] > before["foreground_mean"]["Dice"]) and not worse


def _component_table(pair: CasePair, targets: Targets, steps: tuple[Step, ...]) -> dict[str, _Table]:
    import cc3d

    prediction, reference, spacing = pair.read()
    labels = apply_postprocessing(prediction, spacing, steps)
    counted = np.ones(reference.shape, bool) if targets.ignore is None else reference != targets.ignore
    tables = {}
    for key, members in targets.values.items():
        mask, truth = np.isin(labels, members), np.isin(reference, members)
        numbers: NDArray[Any] = cc3d.connected_components(mask, connectivity=26)
        sizes = np.bincount(numbers.ravel())
        voxels = np.bincount(numbers[counted], minlength=len(sizes))[1:]
        hits = np.bincount(numbers[truth & counted], minlength=len(sizes))[1:]
        tables[key] = _Table(
            voxel_volume(spacing) * sizes[1:].astype(np.float64), voxels, hits, int((truth & counted).sum())
        )
    return tables


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
