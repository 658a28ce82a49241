"""Folds that keep groups of cases together (all scans of a patient) and spread labels evenly; beyond nnU-Net."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segplan.dataset.splits import SEED, Split, check_number_of_folds
from segplan.errors import ConfigError, DatasetError

_CSV = re.compile(r"(?P<file>.+\.csv):(?P<column>[^/\\]+)", re.IGNORECASE)
_CASE_COLUMN = "case"
_MOST_NAMED = 3
_WHERE = "split.group_by"


def groups_of_cases(identifiers: Sequence[str], group_by: str) -> dict[str, str]:
    r"""The group of every case.

    Args:
        identifiers: the cases.
        group_by: FILE.csv:COLUMN, where the file's column `case` (or its first one) names the cases; or a regular
            expression that each case's name must contain: what its groups match is the group, or the whole match if it
            has none. `(patient\d+)_` puts patient7_a and patient7_b together.

    Raises:
        ConfigError: it is no regular expression, or there is no such file or column.
        DatasetError: it gives some case no group, or two.
    """
    match = _CSV.fullmatch(group_by)
    found = _from_table(Path(match["file"]), match["column"]) if match else _from_pattern(identifiers, group_by)
    missing = [name for name in identifiers if not found.get(name)]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        what = f"{group_by} gives no group to {', '.join(missing[:_MOST_NAMED])}{more}"
        raise DatasetError(what, _WHERE, "Every case needs one; a case of its own may have its own name as group.")
    return {name: found[name] for name in identifiers}


def make_grouped_splits(
    groups: Mapping[str, str],
    labels: Mapping[str, Sequence[int]] | None = None,
    k: int = 5,
    seed: int = SEED,
) -> list[Split]:
    """Make k folds of whole groups.

    Each group goes to the smallest fold, the largest groups first, so that sizes differ by no more than the largest
    group has cases. With `labels` those with the rarest label go first, and among equally small folds to the one that
    has the fewest cases with it (in the manner of Sechidis et al., 2011).

    Args:
        groups: case to group.
        labels: case to the labels that occur in it; None does not look at labels.
        k: number of folds.
        seed: decides among equals.

    Raises:
        ConfigError: k is below 2.
        DatasetError: there are fewer than k groups.
    """
    members: dict[str, list[str]] = {}
    for case in sorted(groups):
        members.setdefault(groups[case], []).append(case)
    noun = "group" if len(members) == 1 else "groups"
    check_number_of_folds(k, len(members), "cases" if len(members) == len(groups) else f"{noun} of cases")
    names = sorted(members)
    np.random.RandomState(seed).shuffle(names)
    counts = {name: _label_counts(members[name], labels or {}) for name in names}
    folds: list[list[str]] = [[] for _ in range(k)]
    held: list[dict[int, int]] = [{} for _ in range(k)]
    most = max(map(len, members.values()))
    for name, wanted in _ordered(names, members, counts):
        least = min(map(len, folds))
        open_folds = [fold for fold in range(k) if len(folds[fold]) <= least + most - len(members[name])]
        present = sorted(counts[name], key=lambda label: label != wanted)
        chosen = min(open_folds, key=lambda f: (*(held[f].get(label, 0) for label in present), len(folds[f]), f))
        folds[chosen] += members[name]
        for label, count in counts[name].items():
            held[chosen][label] = held[chosen].get(label, 0) + count
    return [
        Split(tuple(case for case in sorted(groups) if case not in set(held_out)), tuple(sorted(held_out)))
        for held_out in folds
    ]


def _ordered(
    names: Sequence[str], members: Mapping[str, Sequence[str]], counts: Mapping[str, Mapping[int, int]]
) -> list[tuple[str, int | None]]:
    """Groups in the order of their rarest label, each with it; within a label the larger groups first."""
    cases: dict[int, int] = {}
    for count in counts.values():
        for label, number in count.items():
            cases[label] = cases.get(label, 0) + number
    rarest = {name: min(counts[name], key=lambda label: (cases[label], label), default=None) for name in names}

    def rank(name: str) -> tuple[float, int, int]:
        label = rarest[name]
        return (float("inf"), 0, -len(members[name])) if label is None else (cases[label], label, -len(members[name]))

    return [(name, rarest[name]) for name in sorted(names, key=rank)]


def _label_counts(cases: Sequence[str], labels: Mapping[str, Sequence[int]]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for case in cases:
        for label in labels.get(case, ()):
            counts[label] = counts.get(label, 0) + 1
    return counts


def _from_pattern(identifiers: Sequence[str], pattern: str) -> dict[str, str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{pattern!r} is no regular expression ({error})", _WHERE, "Give a pattern, or FILE.csv:COLUMN."
        ) from error
    matches = {name: match for name in identifiers if (match := compiled.search(name))}
    return {
        name: ("\0".join(part or "" for part in match.groups()) if any(match.groups()) else "")
        if match.groups()
        else match[0]
        for name, match in matches.items()
    }


def _from_table(path: Path, column: str) -> dict[str, str]:
    try:
        with path.expanduser().open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", path, "Give split.group_by=FILE.csv:COLUMN.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"is no CSV file ({error})", path, "Save it as CSV, UTF-8, with a header line.") from error
    if column not in header:
        raise ConfigError(f"has no column {column}", path, f"There are: {', '.join(header) or 'none'}.")
    key = _CASE_COLUMN if _CASE_COLUMN in header else header[0]
    found: dict[str, str] = {}
    for row in rows:
        case, group = str(row[key]), str(row[column] or "")
        if found.setdefault(case, group) != group:
            raise DatasetError(f"has {case} in two groups, {found[case]} and {group}", path, "Leave one of its lines.")
    return found
