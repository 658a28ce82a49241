"""What makes a run the run it is: the values that decide its weights. Another one may not go on in its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.errors import RunError
from segplan.imaging import atomic_write

IDENTITY_FILE = "identity.json"

_NODES = (
    "plan",
    "data",
    "network",
    "loss",
    "optimizer",
    "schedule",
    "augmentation",
    "module",
    "finetune",
    "seed",
    "fold",
)
_TRAINER_KEYS = ("limit_train_batches", "accumulate_grad_batches", "gradient_clip_val")
# How fast it goes, who planned it and where it runs decide no weight.
_IRRELEVANT = {"data.num_workers", "module.compile", "plan.segplan_version", "plan.schema_version", "plan.planner"}


def run_identity(config: DictConfig) -> dict[str, Any]:
    """The values of `config` that decide the weights, as dotted keys; lists stay whole."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    chosen = {node: plain[node] for node in _NODES if node in plain}
    chosen["trainer"] = {key: plain["trainer"].get(key) for key in _TRAINER_KEYS}
    flat = {key: value for key, value in _flatten(chosen) if key not in _IRRELEVANT}
    # Through JSON, so that what is compared is what a file can hold (tuples become lists).
    identity: dict[str, Any] = json.loads(json.dumps(flat))
    return identity


def differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key old → new` for every key that differs between two identities."""
    keys = sorted(before.keys() | now.keys())
    return [f"{key} {_show(before, key)} → {_show(now, key)}" for key in keys if before.get(key) != now.get(key)]


def check_run_folder(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `folder` is that of the run with this identity already; False if it is nobody's yet.

    Raises:
        RunError: it belongs to a run with another one.
    """
    path = folder / IDENTITY_FILE
    if not path.exists():
        return False
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"cannot be read ({error})", path, "Use force=true to start over.") from error
    changes = differing_keys(before, identity)
    if changes:
        raise RunError(
            f"run folder holds a run with another config ({_summary(changes)})",
            folder,
            "Use run=NAME for a new one, or force=true to start over.",
        )
    return True


def claim_run_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make `folder` the folder of the run with this identity.

    Raises:
        RunError: it belongs to a run with another one.
    """
    if check_run_folder(folder, identity):
        return
    with atomic_write(folder / IDENTITY_FILE) as temporary:
        temporary.write_text(json.dumps(identity, indent=1, ensure_ascii=False, sort_keys=True), encoding="utf-8")


def check_checkpoint(path: Path, saved: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that another run saved.

    Args:
        path: the checkpoint's, for the message.
        saved: the identity in it.
        identity: this run's.

    Raises:
        RunError: names the first differences; a differing plan is called that.
    """
    changes = differing_keys(saved, identity)
    if not changes:
        return
    of_plan = any(change.startswith(("plan.", "network.")) for change in changes)
    raise RunError(
        f"the checkpoint is of another {'plan' if of_plan else 'run'} ({_summary(changes)})",
        path,
        "Move it away, use run=NAME for a new run, or force=true to start over.",
    )


def _flatten(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        pairs += _flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def _show(identity: Mapping[str, Any], key: str) -> str:
    return json.dumps(identity[key], ensure_ascii=False) if key in identity else "absent"


def _summary(changes: list[str], limit: int = 4) -> str:
    more = f", and {len(changes) - limit} more" if len(changes) > limit else ""
    return ", ".join(changes[:limit]) + more
