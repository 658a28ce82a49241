"""Names for the values that label maps turn out to hold, and new values where background is not 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segplan.errors import DatasetError

_MOST_LABELS = 300
_WHERE = "labels"


@dataclass(frozen=True)
class LabelNames:
    """Labels of a dataset that is being made.

    Attributes:
        names: value of each name, as dataset.json will have it.
        renumbering: new value of each value in the files, or None where they stay.
        note: something that the user should know of, or "".
    """

    names: Mapping[str, int]
    renumbering: Mapping[int, int] | None = None
    note: str = ""


def name_labels(given: Mapping[str, object] | Sequence[object] | None, found: set[int]) -> LabelNames:
    """The labels of a dataset.

    Args:
        given: {name: value}; or names for the found values but 0, ascending; or None: "foreground" for a single value,
            else "label 3".
        found: every value in the label maps.

    Raises:
        DatasetError: the names do not fit what was found, or the values are not those of label maps.
    """
    values = sorted(found - {0})
    shown = ", ".join(map(str, sorted(found)[:12])) + (", …" if len(found) > 12 else "")
    if isinstance(given, Mapping):
        return _declared({str(name): value for name, value in given.items()}, found, shown)
    if not values:
        raise DatasetError(f"the label maps hold only {shown}", _WHERE, "Are these the right files?")
    if len(values) > _MOST_LABELS or min(values) < 0:
        what = f"the label maps hold {len(found)} values ({shown})"
        remedy = "These look like images, or like masks with soft edges: export them with one number a structure."
        raise DatasetError(what, _WHERE, remedy)
    if given is not None:
        if len(given) != len(values):
            what = f"{len(given)} names for {len(values)} values ({', '.join(map(str, values))})"
            raise DatasetError(what, _WHERE, "Name each value: labels='{name: value}'.")
        return LabelNames({"background": 0, **dict(zip(map(str, given), values, strict=True))})
    names = ["foreground"] if len(values) == 1 else [f"label {value}" for value in values]
    note = f"the values found are {shown}; labels='{{name: value}}' gives them names"
    return LabelNames({"background": 0, **dict(zip(names, values, strict=True))}, note=note)


def _declared(given: Mapping[str, object], found: set[int], shown: str) -> LabelNames:
    names: dict[str, int] = {}
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise DatasetError(f"the value of {name} is {value}", _WHERE, "Give each name one whole number.")
        names[name] = value
    names = {"background": 0, **names} if "background" not in names else names
    if len(set(names.values())) < len(names):
        raise DatasetError("two names have the same value", _WHERE, "Give each name a value of its own.")
    unknown = found - set(names.values())
    absent = [name for name, value in names.items() if value not in found and name not in ("background", "ignore")]
    if unknown:
        what = f"the label maps hold the value {min(unknown)}, which has no name (found: {shown})"
        example = absent[0] if len(absent) == len(unknown) == 1 else "name"
        raise DatasetError(what, _WHERE, f"Name every value but 0: labels='{{{example}: {min(unknown)}}}'.")
    note = f"{', '.join(absent)} occurs in no label map" if absent else ""
    if names["background"] == 0 and min(names.values()) == 0:
        return LabelNames(names, note=note)
    order = sorted((name for name in names if name != "background"), key=lambda name: (name == "ignore", names[name]))
    new = {name: number for number, name in enumerate(["background", *order])}
    return LabelNames(new, {names[name]: value for name, value in new.items()}, note)
