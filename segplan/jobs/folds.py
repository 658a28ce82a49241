"""The folds of a planned dataset: made once from the raw cases, or taken from the dataset's own splits_final.json."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from segplan.dataset import Split, groups_of_cases, make_grouped_splits, make_splits, read_splits, write_splits
from segplan.dataset.splits import SEED
from segplan.errors import ConfigError, DatasetError
from segplan.planning import Fingerprint


@dataclass(frozen=True)
class SplitSettings:
    """How folds are made; the defaults are nnU-Net's."""

    k: int = 5
    """Number of folds."""
    seed: int = SEED
    """Of the shuffling."""
    group_by: str | None = None
    """What keeps cases together: FILE.csv:COLUMN, or a pattern on the case's name (`groups_of_cases`)."""
    stratify: bool = False
    """Whether each label is spread evenly over the folds."""

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ConfigError(f"split.k={self.k} folds cannot be made", remedy="Choose at least 2.")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"split.seed={self.seed} must be a whole number from 0 to {2**32 - 1}")


def make_folds(identifiers: Sequence[str], settings: SplitSettings, fingerprint: Fingerprint) -> list[Split]:
    """The folds of `identifiers` that `settings` ask for.

    Raises:
        ConfigError: a setting cannot work.
        DatasetError: there are too few cases or groups, or a case has no group.
    """
    if settings.group_by is None and not settings.stratify:
        return make_splits(identifiers, settings.k, settings.seed)
    labels = dict(zip(fingerprint.case_ids, fingerprint.case_labels, strict=False))
    if settings.stratify and not set(labels) >= set(identifiers):
        raise DatasetError(
            "the fingerprint does not say which labels occur in which case",
            "split.stratify=true",
            "Measure the images again: plan.py dataset=FOLDER stages=[fingerprint,plan] force=true.",
        )
    alone = {case: case for case in identifiers}
    groups = alone if settings.group_by is None else groups_of_cases(identifiers, settings.group_by)
    return make_grouped_splits(groups, labels if settings.stratify else None, settings.k, settings.seed)


def write_folds(
    path: Path,
    identifiers: Sequence[str],
    settings: SplitSettings,
    fingerprint: Fingerprint,
    *,
    own: Path | None = None,
    sibling: Path | None = None,
    force: bool = False,
) -> list[str]:
    """Write splits_final.json, unless there is one that may not be touched.

    Args:
        path: of the file.
        identifiers: all raw cases; empty where they are not known.
        settings: how folds are made.
        fingerprint: says which labels occur in which case.
        own: the dataset's own file in nnU-Net's format, which comes before `settings`.
        sibling: the folds of the dataset's first plan: another planner's plan has the same, unless `settings` ask
            for something, so that their models compare.
        force: replace folds that differ; what was there goes to splits_final.previous.json. Folds of these very cases
            stay where `settings` ask for nothing: redoing the rest must not tear patients apart.

    Returns:
        What the user should know, a line each.

    Raises:
        SegplanError: folds cannot be made, or a file is unusable.
    """
    if own is not None and own.is_file():
        return _copy_own(path, own, identifiers, settings)
    unasked = settings == SplitSettings()
    first = read_splits(sibling) if unasked and sibling is not None and sibling.is_file() else []
    if first and not path.exists():
        write_splits(path, first)
    known = read_splits(path) if path.is_file() else []
    if not identifiers:
        return [] if known else ["no folds yet: the fingerprint names no cases; plan.py dataset=FOLDER makes them"]
    if known and _cases(first) == set(identifiers):
        other = f"the folds in {path} are not those of the dataset's first plan; remove the file to have the same"
        return [] if _same(known, first) else [other]
    return _write_wanted(path, known, identifiers, settings, fingerprint, force=force)


def _write_wanted(
    path: Path,
    known: Sequence[Split],
    identifiers: Sequence[str],
    settings: SplitSettings,
    fingerprint: Fingerprint,
    *,
    force: bool,
) -> list[str]:
    if len(identifiers) < settings.k and settings.group_by is None:
        if not known:
            write_splits(path, [])
        noun = "case is" if len(identifiers) == 1 else "cases are"
        return [f"{len(identifiers)} {noun} too few for {settings.k} folds; fold=all trains on all of them"]
    wanted = make_folds(identifiers, settings, fingerprint)
    if _same(known, wanted):
        return []
    if known and (not force or (settings == SplitSettings() and _cases(known) == set(identifiers))):
        return [_why_kept(path, known, identifiers, settings)]
    previous = path.with_name("splits_final.previous.json")
    if known:
        write_splits(previous, known)
    write_splits(path, wanted)
    return [f"{path} has new folds; those before are in {previous.name}"] if known else []


def _why_kept(path: Path, known: Sequence[Split], identifiers: Sequence[str], settings: SplitSettings) -> str:
    covered = _cases(known)
    if covered == set(identifiers) and settings == SplitSettings():
        return f"the {len(known)} folds in {path}, which are not nnU-Net's, are kept; remove the file to have those"
    if covered == set(identifiers):
        asked = " ".join(f"split.{key}={value}" for key, value in asdict(settings).items() if value)
        return f"the {len(known)} folds in {path} are kept; {asked} would make others, and force=true does"
    added, gone = len(set(identifiers) - covered), len(covered - set(identifiers))
    return f"{path} was made for other cases ({added} new, {gone} gone); force=true makes it anew"


def _copy_own(path: Path, own: Path, identifiers: Sequence[str], settings: SplitSettings) -> list[str]:
    splits = read_splits(own)
    named = _cases(splits)
    if unknown := sorted(named - set(identifiers)):
        what = f"it names {len(unknown)} cases that the dataset does not have ({', '.join(unknown[:3])})"
        raise DatasetError(what, own, "Mend or remove it.")
    write_splits(path, splits)
    notes = [f"the {len(splits)} folds are those of {own}"]
    if settings != SplitSettings():
        notes.append("split.* is not looked at: the dataset brings its own folds")
    if left := len(set(identifiers) - named):
        notes.append(f"{left} cases are in no fold")
    if any(set(split.train) & set(split.validation) for split in splits):
        notes.append("some cases are trained on and validated with in the same fold")
    return notes


def _cases(splits: Sequence[Split]) -> set[str]:
    return {name for split in splits for name in (*split.train, *split.validation)}


def _same(some: Sequence[Split], others: Sequence[Split]) -> bool:
    return [(set(s.train), set(s.validation)) for s in some] == [(set(s.train), set(s.validation)) for s in others]
