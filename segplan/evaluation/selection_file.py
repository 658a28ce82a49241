"""inference.yaml: what a cross-validation decided, for predict.py to obey (`predict.py inference=FILE`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segplan.errors import ConfigError
from segplan.evaluation.postprocessing import Step, parse_steps
from segplan.imaging import atomic_write

SELECTION_FILE = "inference.yaml"
_KEYS = ("dataset", "members", "postprocessing", "scores")
_MEMBER_KEYS = ("plan", "run", "folds", "checkpoint")
_CHECKPOINTS = ("final", "best")
_REMEDY = "Make it again: segplan select DATASET."


@dataclass(frozen=True)
class Member:
    """A trained model that takes part.

    Args:
        plan: DATASET/[NAME/]CONFIGURATION.
        run: name of the training.
        folds: whose probabilities are averaged.
        checkpoint: "final" or "best".
    """

    plan: str
    run: str = "default"
    folds: tuple[int | str, ...] = (0, 1, 2, 3, 4)
    checkpoint: str = "final"

    def to_json(self) -> dict[str, Any]:
        """The member as a plain mapping."""
        return {"plan": self.plan, "run": self.run, "folds": list(self.folds), "checkpoint": self.checkpoint}


@dataclass(frozen=True)
class Selection:
    """The content of inference.yaml.

    Args:
        dataset: the dataset's name.
        members: models; the probabilities of several are averaged, each counting the same.
        postprocessing: steps for the label map.
        scores: what decided, as plain values; for people and reports.
    """

    dataset: str
    members: tuple[Member, ...]
    postprocessing: tuple[Step, ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)


def summaries_file(selection: Path) -> Path:
    """Beside a selection, the summary of every candidate: selection.json, or of NAME.yaml NAME.selection.json."""
    own = "" if selection.name == SELECTION_FILE else f"{selection.stem}."
    return selection.with_name(f"{own}selection.json")


def read_selection(path: Path) -> Selection:
    """Read an inference.yaml.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds what cannot work.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("the selection cannot be read", path, "segplan select DATASET writes it.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("the selection is no valid YAML", path, _REMEDY) from error
    if not isinstance(content, Mapping):
        raise ConfigError("the selection holds no mapping", path, _REMEDY)
    _refuse_unknown(content, _KEYS, str(path))
    members = content.get("members")
    if not isinstance(members, list) or not members:
        raise ConfigError("names no members", path, _REMEDY)
    return Selection(
        str(content.get("dataset", "")),
        tuple(_member(entry, f"{path}, members[{index}]") for index, entry in enumerate(members)),
        parse_steps(content.get("postprocessing"), f"{path}, postprocessing"),
        dict(content.get("scores") or {}),
    )


def write_selection(path: Path, selection: Selection, header: Sequence[str] = ()) -> None:
    """Write an inference.yaml.

    Args:
        path: of the file.
        selection: its content.
        header: lines of a comment above it.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    import yaml

    def flow(value: Any) -> str:
        return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True).strip()

    lines = [*(f"# {line}".rstrip() for line in header)]
    lines += [f"dataset: {flow([selection.dataset])[1:-1]}", "members:"]
    lines += [f"  - {flow(member.to_json())}" for member in selection.members]
    steps = [f"  - {flow(step.to_json())}" for step in selection.postprocessing]
    lines += ["postprocessing:", *steps] if steps else ["postprocessing: []"]
    scores = yaml.safe_dump({"scores": _plain(selection.scores)}, sort_keys=False, allow_unicode=True, width=120)
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join([*lines, scores]), encoding="utf-8")


def _member(entry: Any, where: str) -> Member:
    if not isinstance(entry, Mapping) or "plan" not in entry:
        raise ConfigError("is no member", where, "Write {plan: DATASET/CONFIGURATION, run: default, folds: [0, 1]}.")
    _refuse_unknown(entry, _MEMBER_KEYS, where)
    defaults = Member(str(entry["plan"]))
    folds = entry.get("folds", list(defaults.folds))
    folds = folds if isinstance(folds, list) else [folds]
    wrong = [fold for fold in folds if not _is_fold(fold)]
    if wrong or not folds:
        what = f"folds: {wrong[0]} is no fold" if wrong else "names no fold"
        raise ConfigError(what, where, "Write folds: [0, 1, 2, 3, 4], or folds: [all].")
    checkpoint = entry.get("checkpoint", defaults.checkpoint)
    if checkpoint not in _CHECKPOINTS:
        raise ConfigError(f"there are no weights {checkpoint!r}", where, f"Use {' or '.join(_CHECKPOINTS)}.")
    return Member(defaults.plan, str(entry.get("run", defaults.run)), tuple(folds), str(checkpoint))


def _is_fold(fold: object) -> bool:
    return fold == "all" or (isinstance(fold, int) and not isinstance(fold, bool) and fold >= 0)


def _refuse_unknown(content: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise ConfigError(f"unknown key {', '.join(unknown)}", where, f"Known keys: {', '.join(known)}.")


def _plain(value: Any) -> Any:
    """Values that YAML knows; NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(float(value), 6)
    return value
