"""The labels of a dataset: names and values, regions (overlapping unions of labels), and the ignore label."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import DatasetError

_WHERE = "dataset.json, labels"
_EXAMPLE = 'Write them as {"background": 0, "name": 1, …}.'
_LARGEST = 2**31 - 1
_LARGEST_TABLE = 1 << 16
LabelValue = int | tuple[int, ...]


@dataclass(frozen=True)
class Labels:
    """What dataset.json says under "labels" and "regions_class_order".

    Values are those of the label files: any whole numbers from 0, with 0 for the background. Inside the case store and
    the network a label is its index among `all_labels`, and ignore the index after the last: see `indexed`.

    Attributes:
        names: value of every name but "ignore", in declared order, background included; a list is a tuple here.
        ignore: the value of voxels that are not annotated, or None.
        regions_class_order: the label that each region paints, in the order of painting (later over earlier).
    """

    names: Mapping[str, LabelValue]
    ignore: int | None = None
    regions_class_order: tuple[int, ...] | None = None

    @cached_property
    def has_regions(self) -> bool:
        """Whether some name stands for more than one label; then heads are sigmoids, one a region."""
        return any(isinstance(value, tuple) and len(value) > 1 for value in self.names.values())

    @cached_property
    def all_labels(self) -> tuple[int, ...]:
        """Every label value in ascending order, with 0 and without ignore."""
        return tuple(sorted({label for value in self.names.values() for label in _as_tuple(value)}))

    @cached_property
    def foreground_labels(self) -> tuple[int, ...]:
        """`all_labels` without 0."""
        return tuple(label for label in self.all_labels if label != 0)

    @cached_property
    def foreground_regions(self) -> tuple[LabelValue, ...]:
        """The regions in declared order, as declared (3 and (3,) differ); empty for a dataset without regions."""
        if not self.has_regions:
            return ()
        return tuple(value for value in self.names.values() if set(_as_tuple(value)) != {0})

    @cached_property
    def num_heads(self) -> int:
        """Output channels of the network: one a region, else one a label with background."""
        return len(self.foreground_regions) if self.has_regions else len(self.all_labels)

    @cached_property
    def targets(self) -> Mapping[str, tuple[int, ...]]:
        """What is evaluated: the label values of every foreground name, in declared order."""
        return {name: _as_tuple(value) for name, value in self.names.items() if set(_as_tuple(value)) != {0}}

    @cached_property
    def key_count(self) -> int:
        """Number of names with background and ignore; nnU-Net's memory estimate counts these, not the heads."""
        return len(self.names) + (self.ignore is not None)

    @cached_property
    def indexed(self) -> "Labels":
        """The same labels with indices 0, 1, 2, … in place of the files' values; itself where these are the same."""
        files = (*self.all_labels, *(() if self.ignore is None else (self.ignore,)))
        if files == tuple(range(len(files))):
            return self
        index = {value: number for number, value in enumerate(files)}
        names = {
            name: tuple(index[label] for label in value) if isinstance(value, tuple) else index[value]
            for name, value in self.names.items()
        }
        order = self.regions_class_order
        ignore = None if self.ignore is None else len(files) - 1
        return Labels(names, ignore, None if order is None else tuple(index[label] for label in order))

    def to_indices(self, label_map: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        """A label map (any shape) with the values of `indexed` in place of the files'.

        The array itself is returned where both are the same.

        Raises:
            DatasetError: it holds a value that is no label. (Not looked for where indices and values are the same.)
        """
        if self.indexed is self:
            return label_map
        values = np.array([*self.all_labels, *([] if self.ignore is None else [self.ignore])], np.int64)
        kind = np.uint8 if len(values) < np.iinfo(np.uint8).max else np.uint16
        result = np.empty(label_map.shape, kind)
        for part, into in zip(np.atleast_2d(label_map), np.atleast_2d(result), strict=True):
            into[...] = _positions(part, values, np.iinfo(kind).max)
        if (unknown := result == np.iinfo(kind).max).any():
            what = f"the label map has the value {label_map[unknown].flat[0]}, which dataset.json lacks"
            raise DatasetError(what, _WHERE, "Add it to labels in dataset.json, or mend the label map.")
        return result

    @classmethod
    def from_json(cls, dataset_json: Mapping[str, Any]) -> "Labels":
        """Read and check the labels of a dataset.json.

        Args:
            dataset_json: the parsed file; only "labels" and "regions_class_order" are used.

        Raises:
            DatasetError: the definition cannot work; the message says which name and how to mend it.
        """
        declared = dataset_json.get("labels")
        if not isinstance(declared, Mapping) or not declared:
            raise DatasetError("the labels are missing", _WHERE, _EXAMPLE)
        _refuse_index_to_name(declared)
        names = {str(name): _value(name, value) for name, value in declared.items()}
        ignore = names.pop("ignore", None)
        _check_background(names)
        labels = cls(names, _checked_ignore(ignore, names))
        _check_values(labels)
        order = dataset_json.get("regions_class_order")
        return cls(names, labels.ignore, _class_order(order, labels))

    def to_json(self) -> dict[str, Any]:
        """The definition as JSON values; `from_json` reads it back."""
        names: dict[str, Any] = {name: _to_json(value) for name, value in self.names.items()}
        if self.ignore is not None:
            names["ignore"] = self.ignore
        order = None if self.regions_class_order is None else list(self.regions_class_order)
        return {"labels": names, "regions_class_order": order}


def _as_tuple(value: LabelValue) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _to_json(value: LabelValue) -> int | list[int]:
    return list(value) if isinstance(value, tuple) else value


def _refuse_index_to_name(declared: Mapping[str, Any]) -> None:
    """Raise for {"0": "background", "1": "liver"}, the way of the Medical Segmentation Decathlon."""
    if not all(str(key).isdigit() and isinstance(value, str) for key, value in declared.items()):
        return
    turned = json.dumps({name: int(index) for index, name in declared.items()}, ensure_ascii=False)
    remedy = f"Turn it round: {turned}."
    raise DatasetError("it maps numbers to names, as the Medical Segmentation Decathlon does", _WHERE, remedy)


def _value(name: str, value: Any) -> LabelValue:
    if _is_integer(value):
        return int(value)
    if isinstance(value, list | tuple) and value and all(_is_integer(label) for label in value):
        return tuple(int(label) for label in value)
    shown = json.dumps(value, ensure_ascii=False, default=str)
    remedy = "Give the whole number that the label has in the label maps, or a list of them for a region."
    raise DatasetError(f'the value of "{name}" is {shown}, which is no label', _WHERE, remedy)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_background(names: Mapping[str, LabelValue]) -> None:
    if "background" not in names:
        raise DatasetError('there is no "background"', _WHERE, 'Add "background": 0.')
    if names["background"] != 0:
        what = f'"background" is {_to_json(names["background"])}, it must be 0'
        raise DatasetError(what, _WHERE, "Number the labels so that 0 is background.")


def _checked_ignore(ignore: LabelValue | None, names: Mapping[str, LabelValue]) -> int | None:
    if ignore is None:
        return None
    if isinstance(ignore, tuple):
        what = f'"ignore" is {_to_json(ignore)}, it must be one number'
        raise DatasetError(what, _WHERE, "Give the one value that voxels without annotation have in the label maps.")
    taken = [name for name, value in names.items() if ignore in _as_tuple(value)]
    if taken:
        what = f'"ignore" has the value {ignore} of "{taken[0]}"'
        raise DatasetError(what, _WHERE, "Give it a value of its own, in the label maps too.")
    return ignore


def _check_values(labels: Labels) -> None:
    values = [*labels.all_labels, *([] if labels.ignore is None else [labels.ignore])]
    outside = [value for value in values if not 0 <= value <= _LARGEST]
    if outside:
        what = f"the value {outside[0]} is {'negative' if outside[0] < 0 else 'too large'}"
        raise DatasetError(what, _WHERE, f"Use values from 0 to {_LARGEST}, in the label maps too.")
    if labels.has_regions:
        return
    seen: dict[int, str] = {}
    for name, value in labels.names.items():
        other = seen.setdefault(_as_tuple(value)[0], name)
        if other != name:
            what = f'"{other}" and "{name}" have the same value {_to_json(value)}'
            raise DatasetError(what, _WHERE, "Give each label a value of its own.")


def _positions(array: NDArray[np.integer[Any]], values: NDArray[np.int64], missing: int) -> NDArray[np.integer[Any]]:
    """Index of each element among distinct `values`; `missing` where it is not there."""
    highest = int(values.max())
    if highest < _LARGEST_TABLE:
        table = np.full(highest + 2, missing, np.uint16)
        table[values] = np.arange(len(values))
        found: NDArray[np.integer[Any]] = table[np.where((array < 0) | (array > highest), highest + 1, array)]
        return found
    order = np.argsort(values)
    place = np.minimum(np.searchsorted(values[order], array), len(values) - 1)
    return np.where(values[order][place] == array, order[place], missing)


def _class_order(order: Any, labels: Labels) -> tuple[int, ...] | None:
    where = "dataset.json, regions_class_order"
    regions = list(labels.targets) if labels.has_regions else []
    remedy = f"List the label that each region paints, one for each of: {', '.join(regions)}."
    if order is None:
        if labels.has_regions:
            raise DatasetError("it is missing, and the labels hold regions", where, remedy)
        return None
    if not isinstance(order, list | tuple) or not all(_is_integer(label) for label in order):
        raise DatasetError("it is not a list of whole numbers", where, remedy)
    if not labels.has_regions:
        return tuple(order)
    if len(order) != len(labels.foreground_regions):
        what = f"it has {len(order)} entries for {len(labels.foreground_regions)} regions"
        raise DatasetError(what, where, remedy)
    unknown = [label for label in order if label not in labels.foreground_labels]
    if unknown:
        raise DatasetError(f"{unknown[0]} is no foreground label", where, remedy)
    return tuple(order)
