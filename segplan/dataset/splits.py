"""Cross-validation splits: nnU-Net's own (2.8.1), so that folds of both programs compare."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segplan.errors import ConfigError, DatasetError
from segplan.imaging import atomic_write

SEED = 12345
"""nnU-Net's."""
_TRAIN_SHARE = 0.8  # of a fold beyond the split file


@dataclass(frozen=True)
class Split:
    """Case identifiers to train on and to validate with."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def make_splits(identifiers: Sequence[str], k: int = 5, seed: int = SEED) -> list[Split]:
    """Make k folds: the sorted cases are shuffled once and cut into k runs, whose first n % k have one case more.

    The same as scikit-learn's KFold(k, shuffle=True, random_state=seed) on the sorted identifiers.

    Raises:
        ConfigError: k is below 2.
        DatasetError: there are fewer than k cases.
    """
    names = sorted(identifiers)
    check_number_of_folds(k, len(names))
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    splits = []
    for held_out in np.array_split(order, k):
        validation = {int(index) for index in held_out}
        splits.append(
            Split(
                tuple(name for index, name in enumerate(names) if index not in validation),
                tuple(names[index] for index in sorted(validation)),
            )
        )
    return splits


def check_number_of_folds(k: int, count: int, noun: str = "cases") -> None:
    """Refuse folds that cannot be made.

    Raises:
        ConfigError: k is below 2.
        DatasetError: there are fewer than k things to split (`count`, called `noun`).
    """
    if k < 2:
        raise ConfigError(f"{k} folds cannot be made", "splits", "Choose at least 2.")
    if count < k:
        what = f"{count} {noun} cannot be split into {k} folds"
        remedy = "Choose a smaller split.k, or use fold=all, which trains on and validates with every case."
        raise DatasetError(what, "splits", remedy)


def select_fold(splits: Sequence[Split], identifiers: Sequence[str], fold: int | str) -> Split:
    """The cases of one fold.

    Args:
        splits: the split file.
        identifiers: all cases that there are.
        fold: a number; "all" for every case in both lists; a number beyond the split file for a random 80:20 split
            with a seed of its own.

    Raises:
        ConfigError: there is no such fold.
        DatasetError: the split file names a case that does not exist.
    """
    names = sorted(identifiers)
    if fold == "all":
        return Split(tuple(names), tuple(names))
    number = _fold_number(fold, len(splits))
    if number >= len(splits):
        return _random_split(names, number)
    split = splits[number]
    unknown = sorted({*split.train, *split.validation} - set(names))
    if unknown:
        what = f"fold {number} names {len(unknown)} cases that do not exist ({', '.join(unknown[:3])})"
        raise DatasetError(what, "splits_final.json", "Preprocess all cases, or remove the file to have it made anew.")
    return split


def read_splits(path: Path) -> list[Split]:
    """Read splits_final.json: a list of {"train": [...], "val": [...]}.

    Raises:
        DatasetError: the file is missing or of another shape.
    """
    remedy = 'Write a list of {"train": [cases], "val": [cases]}, or remove the file to have it made anew.'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"the splits cannot be read ({error.strerror})", path, "Run plan.py first.") from error
    except ValueError as error:
        raise DatasetError(f"it is no valid JSON ({error})", path, remedy) from error
    if not isinstance(content, list) or not all(_is_split(entry) for entry in content):
        raise DatasetError("it is no list of splits", path, remedy)
    return [Split(tuple(entry["train"]), tuple(entry["val"])) for entry in content]


def write_splits(path: Path, splits: Sequence[Split]) -> None:
    """Write splits_final.json, whole or not at all.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    content = [{"train": list(split.train), "val": list(split.validation)} for split in splits]
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _fold_number(fold: int | str, count: int) -> int:
    try:
        number = int(fold)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(fold, bool | float):
        exist = f"There are folds 0 to {count - 1}" if count else "The split file has no folds"
        remedy = f"{exist}, all, and higher numbers for random 80:20 splits."
        raise ConfigError(f"there is no fold {fold}", "fold", remedy)
    return number


def _random_split(names: Sequence[str], fold: int) -> Split:
    chosen = np.random.RandomState(SEED + fold).choice(len(names), int(_TRAIN_SHARE * len(names)), replace=False)
    train = {int(index) for index in chosen}
    rest = tuple(name for index, name in enumerate(names) if index not in train)
    return Split(tuple(names[index] for index in chosen), rest)


def _is_split(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    lists = (entry.get("train"), entry.get("val"))
    return all(isinstance(cases, list) and all(isinstance(case, str) for case in cases) for cases in lists)
