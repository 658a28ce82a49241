"""Two plans side by side: the values that differ, each with the reason that its file gives."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segplan.planning.explanation import flatten

NODES = ("plan", "data", "network", "augmentation", "loss", "optimizer", "schedule", "module", "trainer", "inference")
_SECTION = re.compile(r"(?P<name>[A-Za-z_]+):\s*(#.*)?")
_VALUE = re.compile(r"  (?P<key>[A-Za-z0-9_]+):(?P<rest>.*)")
_COMMENT = "  # "
_BY_ITSELF = ("plan.configuration", "plan.planner", "plan.segplan_version", "plan.planned_from")
_MISSING = object()


@dataclass(frozen=True)
class Side:
    """A plan to compare: values by dotted key, and what stands beside them as reasons."""

    name: str
    values: Mapping[str, Any]
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class PlanDifference:
    """A key whose values differ; None and False in `present` where a plan does not have it."""

    key: str
    values: tuple[Any, Any]
    present: tuple[bool, bool]
    reasons: tuple[str, str]


def side(name: str, config: Mapping[str, Any], texts: Sequence[str]) -> Side:
    """Gather a plan.

    Args:
        name: how the user called it.
        config: its nodes, composed.
        texts: of its files, the one that wins first: their comments are the reasons.
    """
    values = flatten({node: config[node] for node in NODES if config.get(node) is not None})
    values = {key: value for key, value in values.items() if value != {}}
    reasons: dict[str, str] = {}
    for text in texts:
        reasons = reasons_in(text) | reasons
    return Side(name, values, reasons)


def compare(first: Side, second: Side) -> tuple[PlanDifference, ...]:
    """The values that differ, in the order of the first plan; who planned it and when is no difference."""
    keys = [*first.values, *(key for key in second.values if key not in first.values)]
    found = []
    for key in keys:
        values = first.values.get(key, _MISSING), second.values.get(key, _MISSING)
        if key in _BY_ITSELF or values[0] == values[1]:
            continue
        present = values[0] is not _MISSING, values[1] is not _MISSING
        shown = tuple(value if there else None for value, there in zip(values, present, strict=True))
        reasons = _reason(first, key) if present[0] else "", _reason(second, key) if present[1] else ""
        found.append(PlanDifference(key, (shown[0], shown[1]), present, reasons))
    return tuple(found)


def reasons_in(text: str) -> dict[str, str]:
    """Dotted key to the comment beside its value; an own file's value without a comment has an empty one."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := _SECTION.fullmatch(line):
            name = match["name"]
        elif name and (match := _VALUE.fullmatch(line)):
            found[f"{name}.{match['key']}"] = match["rest"].partition(_COMMENT)[2]
    return found


def _reason(plan: Side, key: str) -> str:
    parts = key.split(".")
    candidates = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((plan.reasons[name] for name in candidates if name in plan.reasons), "")
