"""Which case a sample is taken from: any, by weight, or for a class that was drawn first."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segplan.errors import ConfigError

_WEIGHTS_KEY = "data.case_weights"


@dataclass(frozen=True)
class CaseChoice:
    """Draws cases with replacement.

    Args:
        identifiers: the cases.
        weights: one a case, in the same order; None draws uniformly (nnU-Net 2.8.1).
        classes: per class the numbers of the cases that have it. With them, `draw_for_class` takes a class uniformly
            and then one of its cases, so that a class that few cases have is seen as often as any other.
    """

    identifiers: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    classes: Mapping[str, tuple[int, ...]] | None = None

    def draw(self, rng: np.random.Generator) -> str:
        """Draw a case."""
        if self.weights is None:
            return self.identifiers[rng.integers(len(self.identifiers))]
        return self.identifiers[_weighted(rng, self.weights)]

    def draw_for_class(self, rng: np.random.Generator) -> tuple[str, str] | None:
        """Draw a class, then a case that has it; None where classes are not balanced or no case has any."""
        keys = [key for key, cases in (self.classes or {}).items() if self._can_be_drawn(cases)]
        if not keys:
            return None
        key = keys[rng.integers(len(keys))]
        cases = (self.classes or {})[key]
        weights = None if self.weights is None else [self.weights[case] for case in cases]
        number = rng.integers(len(cases)) if weights is None else _weighted(rng, weights)
        return key, self.identifiers[cases[number]]

    def _can_be_drawn(self, cases: Sequence[int]) -> bool:
        return bool(cases) and (self.weights is None or any(self.weights[case] > 0 for case in cases))


def cases_of_classes(ranges: Iterable[Mapping[str, tuple[int, int]]], without: str) -> dict[str, tuple[int, ...]]:
    """Return per class the numbers of the cases that have it.

    Args:
        ranges: per case, the rows of each class among its foreground locations.
        without: key that is no class.
    """
    classes: dict[str, list[int]] = {}
    for number, case in enumerate(ranges):
        for key, (start, stop) in case.items():
            if key != without:
                classes.setdefault(key, []).extend([number] if stop > start else [])
    return {key: tuple(cases) for key, cases in classes.items()}


def weights_of(
    given: Mapping[str, Any] | str | Path | None, identifiers: Sequence[str], known: Iterable[str]
) -> tuple[float, ...] | None:
    """Return a weight for each of `identifiers`; a case that is not named has weight 1.

    Args:
        given: {case: weight}, or a JSON file of that, or a CSV file with the columns case and weight; None for none.
        identifiers: the cases to draw from.
        known: all cases that may be named.

    Raises:
        ConfigError: the file cannot be read, a case does not exist, a weight is no number of at least 0, or all are 0.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping | str | Path):
        raise ConfigError(f"{given!r} gives no weights", _WEIGHTS_KEY, "Use {case: weight}, or a CSV or JSON file.")
    named = given if isinstance(given, Mapping) else _read(Path(given))
    unknown = sorted({str(name) for name in named} - set(known))
    if unknown:
        raise ConfigError(
            f"{len(unknown)} of the named cases do not exist, {unknown[0]} among them",
            _WEIGHTS_KEY,
            "Name the cases as in the raw dataset, without channel number and file ending.",
        )
    weights = {str(name): _weight(str(name), value) for name, value in named.items()}
    chosen = tuple(weights.get(identifier, 1.0) for identifier in identifiers)
    if not any(chosen):
        raise ConfigError("every training case has weight 0", _WEIGHTS_KEY, "Give at least one of them more.")
    return chosen


def _weighted(rng: np.random.Generator, weights: Sequence[float]) -> int:
    ends = np.cumsum(weights)
    # A draw below 1 falls into no case of weight 0: its end is also the end of the one before.
    return int(np.searchsorted(ends / ends[-1], rng.random(), side="right"))


def _weight(name: str, value: Any) -> float:
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(f"case {name} has the weight {value!r}", _WEIGHTS_KEY, "Use a number of at least 0.")
    return weight


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error})", _WEIGHTS_KEY, "Check the path.") from error
    if path.suffix.lower() == ".json":
        return _from_json(text, path)
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if rows and [cell.strip().lower() for cell in rows[0]] == ["case", "weight"]:
        rows = rows[1:]
    if any(len(row) != 2 for row in rows):
        wrong = next(row for row in rows if len(row) != 2)
        raise ConfigError(f"{path} has the line {','.join(wrong)!r}", _WEIGHTS_KEY, "Write case,weight in each line.")
    return {name.strip(): weight.strip() for name, weight in rows}


def _from_json(text: str, path: Path) -> Mapping[str, Any]:
    try:
        named = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is no valid JSON ({error})", _WEIGHTS_KEY, "Correct it.") from error
    if not isinstance(named, dict):
        raise ConfigError(f"{path} holds no object", _WEIGHTS_KEY, "Write {case: weight}.")
    return named
