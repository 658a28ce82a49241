"""What is done to a predicted label map before it is written: connected components that are no structure go.

Steps are plain mappings, as they stand in inference.yaml, and are applied in order:

    - {operation: keep_largest_component, labels: [1]}
    - {operation: remove_small_components, labels: [2], min_volume_mm3: 30}

Several labels are joined to one mask first. Components tied for the largest are all kept (nnU-Net's rule).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import ConfigError
from segplan.evaluation.components import find_components, remove_components
from segplan.evaluation.metrics import positions

KEEP_LARGEST = "keep_largest_component"
REMOVE_SMALL = "remove_small_components"

LabelArray = NDArray[np.integer[Any]]

_KEYS = {KEEP_LARGEST: ("operation", "labels"), REMOVE_SMALL: ("operation", "labels", "min_volume_mm3")}
_EXAMPLE = "Write {operation: keep_largest_component, labels: [1]}, or remove_small_components with min_volume_mm3."
_FLAT = 990.0  # times the in-plane spacing: the placeholder along z of 2D data is 999, a slice distance never is
_TOLERANCE = 1e-9  # relative, of the product of three spacings


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        operation: `KEEP_LARGEST` or `REMOVE_SMALL`.
        labels: values of the label map that are joined to one mask.
        min_volume_mm3: components smaller than this are removed (of 2D data: mm², the area).
    """

    operation: str
    labels: tuple[int, ...]
    min_volume_mm3: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The step as a plain mapping."""
        data: dict[str, Any] = {"operation": self.operation, "labels": list(self.labels)}
        return data if self.min_volume_mm3 is None else data | {"min_volume_mm3": self.min_volume_mm3}


def parse_steps(steps: object, where: str = "postprocessing") -> tuple[Step, ...]:
    """Check the steps that a file or a person gives; None is no steps.

    Raises:
        ConfigError: a step cannot work; says which and how to mend it.
    """
    if steps is None:
        return ()
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise ConfigError("is no list of steps", where, _EXAMPLE)
    return tuple(_parse(step, f"{where}[{index}]") for index, step in enumerate(steps))


def apply_postprocessing(
    labels: LabelArray,
    spacing: tuple[float, float, float],
    steps: Sequence[Mapping[str, Any] | Step] | None,
    *,
    in_place: bool = False,
) -> LabelArray:
    """Apply the steps to a label map.

    The memory beyond the label map is that of a slab of 2^24 voxels (some 200 MB), whatever its size.

    Args:
        labels: label map (Z, Y, X) with the values of the label files.
        spacing: mm along (Z, Y, X).
        steps: plain mappings as in inference.yaml, or `Step`s; None or [] changes nothing.
        in_place: change `labels` (which may be a memory map) in place of a copy of it.

    Returns:
        The label map (Z, Y, X), of the same type.

    Raises:
        ConfigError: a step cannot work.
    """
    parsed = tuple(step if isinstance(step, Step) else _parse(step, "postprocessing") for step in steps or ())
    result = labels if in_place or not parsed else labels.copy()
    for group in disjoint([step.labels for step in parsed]):
        _apply(result, [parsed[index] for index in group], voxel_volume(spacing))
    return result


def voxel_volume(spacing: Sequence[float]) -> float:
    """Volume of a voxel in mm³; of 2D data, whose spacing along z is a placeholder, the area in mm²."""
    z, y, x = (float(value) for value in spacing)
    return y * x if z > _FLAT * max(y, x) else z * y * x


def disjoint(masks: Sequence[tuple[int, ...]]) -> list[range]:
    """Runs of masks (their labels) that follow one another and share no label: what one pass over a map can look at."""
    runs: list[range] = []
    known: set[int] = set()
    for index, members in enumerate(masks):
        if not runs or known & set(members):
            runs.append(range(index, index))
            known = set()
        known |= set(members)
        runs[-1] = range(runs[-1].start, index + 1)
    return runs


def classes_by_mask(labels: LabelArray, masks: Sequence[tuple[int, ...]]) -> NDArray[np.bool_ | np.uint16]:
    """For each voxel (Z, Y, X) 1 + the index of the mask that its label belongs to, or 0; one mask is a bool array.

    Args:
        labels: label map (Z, Y, X).
        masks: the labels of each mask, which share none.
    """
    pairs = sorted((value, index) for index, members in enumerate(masks, 1) for value in set(members))
    known = np.array([value for value, _ in pairs], np.int64)
    numbers = np.array([0, *(index for _, index in pairs)], bool if len(masks) == 1 else np.uint16)
    classes = np.empty(labels.shape, numbers.dtype)
    for z, plane in enumerate(labels):  # a slice at a time: positions take eight bytes a voxel
        classes[z] = numbers[positions(plane, known)]
    return classes


def _apply(labels: LabelArray, steps: Sequence[Step], volume: float) -> None:
    """Steps that share no label."""
    masks = [step.labels for step in steps]

    def read(start: int, end: int) -> NDArray[np.bool_ | np.uint16]:
        return classes_by_mask(labels[start:end], masks)

    components = find_components(read, labels.shape)
    removed = np.zeros(components.sizes.shape, bool)
    for number, step in enumerate(steps, 1):
        own = components.classes == number
        removed[own] = _is_removed(step, components.sizes[own], volume)
    if removed.any():
        remove_components(labels, read, components, removed)


def _is_removed(step: Step, sizes: NDArray[np.int64], volume: float) -> NDArray[np.bool_]:
    """Which components of so many voxels the step removes, where a voxel has so many mm³."""
    if step.operation == KEEP_LARGEST:
        return np.asarray(sizes < sizes.max(initial=0))
    return np.asarray(sizes * volume < (step.min_volume_mm3 or 0.0) * (1 - _TOLERANCE))


def _parse(step: Mapping[str, Any], where: str) -> Step:
    if not isinstance(step, Mapping):
        raise ConfigError(f"{step!r} is no step", where, _EXAMPLE)
    operation = step.get("operation")
    if operation not in _KEYS:
        raise ConfigError(f"operation={operation} is unknown", where, f"Use {' or '.join(_KEYS)}.")
    missing = [key for key in _KEYS[operation] if key not in step]
    unknown = [str(key) for key in step if key not in _KEYS[operation]]
    if missing or unknown:
        what = f"{operation} lacks {', '.join(missing)}" if missing else f"{operation} has no {', '.join(unknown)}"
        raise ConfigError(what, where, f"Its keys are {', '.join(_KEYS[operation])}.")
    volume = step.get("min_volume_mm3")
    if volume is not None and (isinstance(volume, bool) or not isinstance(volume, int | float) or not volume > 0):
        raise ConfigError(f"min_volume_mm3={volume} is no volume", where, "Give a number of mm³ above 0.")
    return Step(str(operation), _labels(step["labels"], where), None if volume is None else float(volume))


def _labels(value: Any, where: str) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else value
    remedy = "Give the values of the label map that make up the mask, such as [1] or [1, 2]."
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"labels={value} is no list of labels", where, remedy)
    wrong = [label for label in values if isinstance(label, bool) or not isinstance(label, int) or label < 1]
    if wrong:
        raise ConfigError(f"labels: {wrong[0]} is no foreground label", where, remedy)
    return tuple(values)
