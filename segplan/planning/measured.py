"""The largest patch, and the batch that goes with it, whose training step was measured to fit the memory.

The candidates are those of the memory budget's rule, so that measured and estimated plans differ in size alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from segplan.planning.budget import batch_cap, candidates, needed_features, no_patch_fits
from segplan.planning.configured import Configured, PatchStep, Probe, Resolution
from segplan.planning.memory import count_features
from segplan.planning.settings import PlannerSettings
from segplan.planning.topology import Topology

GIGABYTE = 2**30


@dataclass(frozen=True)
class _Candidate:
    topology: Topology
    count: int
    step: PatchStep


def configure_by_measuring(resolution: Resolution, settings: PlannerSettings, probe: Probe) -> Configured:
    """Find the largest candidate patch with which the batch that must fit does fit, then the largest batch.

    Raises:
        ConfigError: not even the smallest patch fits.
    """
    axes, chain = resolution.axes, _chain(resolution, settings)
    limit = settings.gpu_memory_gb * GIGABYTE
    required = _required_batch(axes, settings)
    taken: dict[int, float] = {}

    def measure(index: int) -> float:
        taken[index] = probe(chain[index].topology, required)
        return taken[index]

    start = next((i for i, item in enumerate(chain) if item.step.features <= settings.budget(axes)), len(chain) - 1)
    chosen = _first_that_fits([item.step.features for item in chain], start, limit, measure)
    if chosen is None:
        raise no_patch_fits(axes, settings)
    topology = chain[chosen].topology
    cap = batch_cap(resolution, topology.patch_size, settings)
    most = max(cap, settings.min_batch_size)
    affordable = _largest_batch(required, taken[chosen], most, limit, lambda batch: probe(topology, batch))
    steps = [replace(item.step, measured_bytes=taken.get(index)) for index, item in enumerate(chain[: chosen + 1])]
    patch = f"the largest with which a training step on {required} samples takes at most {settings.gpu_memory_gb:g} GB"
    return Configured(
        topology=topology,
        features=settings.stage_features(topology.stages, axes),
        batch_size=min(affordable, most),
        feature_count=chain[chosen].count,
        steps=tuple(steps),
        affordable_batch=affordable,
        batch_cap=cap,
        reasons=MappingProxyType(
            {
                "patch_size": f"{patch}: {_compared(taken, chosen)}",
                "batch_size": _why_batch(affordable, cap, settings),
            }
        ),
    )


def _chain(resolution: Resolution, settings: PlannerSettings) -> list[_Candidate]:
    chain = []
    for topology, shortened in candidates(resolution, settings):
        count = count_features(topology.patch_size, topology.strides, resolution.label_count, settings)
        step = PatchStep(topology.patch_size, needed_features(count, resolution.axes, settings), shortened)
        chain.append(_Candidate(topology, count, step))
    # What cannot be trained cannot be measured; it is kept only where there is nothing else.
    return [item for item in chain if item.topology.stages > 1 and math.prod(item.topology.bottom) > 1] or chain[:1]


def _required_batch(axes: int, settings: PlannerSettings) -> int:
    if settings.shrink_patch_for == "reference_batch":
        return settings.reference_batch_size(axes)
    return settings.min_batch_size


def _first_that_fits(needs: Sequence[float], start: int, limit: float, measure: Callable[[int], float]) -> int | None:
    """Index of the largest candidate within `limit`; `needs` fall, and guide where to look next."""
    too_large, fits, guess = -1, len(needs), start
    while fits - too_large > 1:
        taken = measure(guess)
        if taken <= limit:
            fits = guess
        else:
            too_large = guess
        # In proportion to what was measured; without a number, a third is a fair guess.
        goal = needs[guess] * (limit / taken if math.isfinite(taken) and taken > 0 else 1 / 3)
        nearest = next((index for index, need in enumerate(needs) if need <= goal), len(needs) - 1)
        guess = min(max(nearest, too_large + 1), fits - 1)
    return fits if fits < len(needs) else None


def _largest_batch(batch: int, taken: float, most: int, limit: float, measure: Callable[[int], float]) -> int:
    """Grow `batch`, whose step takes `taken`, towards `most` while it fits.

    What a step takes without any sample is counted as if it grew too, so a guess rarely overshoots.
    """
    while taken > 0 and (guess := min(most, math.floor(batch * limit / taken))) > batch:
        needed = measure(guess)
        if needed > limit:
            most = guess - 1
        else:
            batch, taken = guess, needed
    return batch


def _compared(taken: dict[int, float], chosen: int) -> str:
    larger = f"the next larger {_gb(taken[chosen - 1])}" if chosen - 1 in taken else "there is no larger one"
    return f"{_gb(taken[chosen])} measured, {larger}"


def _why_batch(affordable: int, cap: int, settings: PlannerSettings) -> str:
    if affordable <= cap:
        return f"the largest whose training step was measured to take at most {settings.gpu_memory_gb:g} GB"
    share = f"{settings.max_dataset_fraction * 100:g} % of the dataset's voxels"
    return f"the minimum; {share} would be {cap}" if cap < settings.min_batch_size else f"{share}"


def _gb(taken: float) -> str:
    return f"{taken / GIGABYTE:.2f} GB" if math.isfinite(taken) else "did not fit"
