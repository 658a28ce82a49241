"""What makes a run the run it is: the values that decide its weights. Another one may not go on in its folder."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.errors import ModelError, RunError
from segplan.imaging import atomic_write
from segplan.interop.source_file import content_hash, pretrained_file
from segplan.jobs.fold_record import RECORD_FILE
from segplan.jobs.prepare import fold_folder
from segplan.jobs.previous_stage import previous_stage

IDENTITY_FILE = "identity.json"
PROVENANCE_FILE = "provenance.json"

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
# What the folds of a run may differ in: each may start from the weights of its own fold of another model.
_OF_THE_FOLD = {"fold", "seed", "finetune.source"}
_TRAINER_KEYS = ("limit_train_batches", "accumulate_grad_batches", "gradient_clip_val")
# How fast it goes, who planned it and where it runs decide no weight.
_IRRELEVANT = {
    "data.num_workers",
    "data.start_method",
    "module.compile",
    "module.memory_format",
    "module.oom",
    "plan.segplan_version",
    "plan.schema_version",
    "plan.planner",
    "plan.planned_from",
    "network.activation_checkpointing",
    "finetune.recipe",
    "finetune.checkpoint",
}
_IRRELEVANT_NODES = ("plan.planner_settings",)
# Options and the value at which they decide no weight; a run begun before there was such an option goes on.
_IRRELEVANT_AT = {"module.ema_decay": None, "plan.label_resampling": "votes"}
_FOR_IGNORE_LABEL = "augmentation.spatial.unannotated"
# Of a cascade, for each fold of the first stage: the hash of its weights.
_PREVIOUS = "previous_stage.fold_"
# In place of the checkpoint's path: the hash of its content.
_SOURCE = "finetune.source"


def run_identity(config: DictConfig) -> dict[str, Any]:
    """The values of `config` that decide the weights, as dotted keys; lists stay whole.

    Raises:
        ModelError: the weights that a new run is to start from are not there.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    chosen = {node: plain[node] for node in _NODES if node in plain}
    chosen["trainer"] = {key: plain["trainer"].get(key) for key in _TRAINER_KEYS}
    decisive = [pair for pair in _flatten(chosen) if not pair[0].startswith(_IRRELEVANT_NODES)]
    kept = [(key, value) for key, value in decisive if key not in _IRRELEVANT]
    flat = {key: value for key, value in kept if key not in _IRRELEVANT_AT or value != _IRRELEVANT_AT[key]}
    if plain["plan"].get("ignore_label") is None:
        flat.pop(_FOR_IGNORE_LABEL, None)
    flat |= _source(config)
    flat |= _previous(config)
    # Through JSON, so that what is compared is what a file can hold (tuples become lists).
    identity: dict[str, Any] = json.loads(json.dumps(flat))
    return identity


def differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key old → new` for every key that differs between two identities."""
    keys = sorted(before.keys() | now.keys())
    return [f"{key} {_show(before, key)} → {_show(now, key)}" for key in keys if before.get(key) != now.get(key)]


def check_run_folder(
    folder: Path,
    identity: Mapping[str, Any],
    *,
    starting_over: bool = False,
    waits: bool = False,
    trains: bool = True,
) -> None:
    """Refuse to train in RUN/fold_K what does not belong there.

    Args:
        folder: RUN/fold_K.
        identity: this training's.
        starting_over: what the fold holds will be discarded; only the run's other folds count then.
        waits: a cascade's first stage may still train; its weights do not count yet.
        trains: False: it is only validated.

    Raises:
        RunError: fold or run belong to a run with another identity. The folds of a run share model.json, so they
            must agree in all but fold, seed and the weights that they start from.
    """
    shared, ignored = _shared(identity), _PREVIOUS if waits else None
    if not starting_over:
        remedy = "Use run=NAME for a new one, or force=true to start over."
        if not trains:
            remedy = f"Give the overrides that it was trained with; {folder / 'config.yaml'} holds their values."
        _check_file(folder / IDENTITY_FILE, identity, "run folder holds a run with another config", remedy, ignored)
        _check_file(folder.parent / IDENTITY_FILE, shared, "the run's folds have another config", remedy, ignored)
    elif _has_other_folds(folder):
        remedy = "Use run=NAME for a new run: force=true discards this fold only."
        what = "the run's other folds have another config"
        _check_file(folder.parent / IDENTITY_FILE, shared, what, remedy, ignored)


def claim_run_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make RUN/fold_K the folder of the training with this identity, and RUN that of the run it is a fold of.

    Raises:
        RunError: it belongs to a run with another one.
    """
    check_run_folder(folder, identity)
    for path, values in ((folder.parent / IDENTITY_FILE, _shared(identity)), (folder / IDENTITY_FILE, identity)):
        if not path.exists():
            with atomic_write(path) as temporary:
                text = json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True)
                temporary.write_text(text, encoding="utf-8")


def start_over(folder: Path) -> None:
    """Discard all in RUN/fold_K but its config.yaml and record; whose RUN it is too if it has no other folds."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in ("config.yaml", RECORD_FILE, PROVENANCE_FILE):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not _has_other_folds(folder):
        (folder.parent / IDENTITY_FILE).unlink(missing_ok=True)


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


def _source(config: DictConfig) -> dict[str, str]:
    """The hash of the weights that training starts from; of a run that began, they need not be there any more."""
    checkpoint = OmegaConf.select(config, "finetune.checkpoint")
    if checkpoint is None:
        return {}
    try:
        return {_SOURCE: content_hash(pretrained_file(Path(str(checkpoint))))}
    except ModelError:
        begun = fold_folder(config) / IDENTITY_FILE
        if not begun.is_file():
            raise
        recorded = json.loads(begun.read_text(encoding="utf-8")).get(_SOURCE)
        return {} if recorded is None else {_SOURCE: str(recorded)}


def _previous(config: DictConfig) -> dict[str, str]:
    """In a cascade, per fold of the first stage the hash of the weights whose segmentations are trained on."""
    stage = previous_stage(config)
    weights = {} if stage is None else stage.weights
    return {f"{_PREVIOUS}{fold}": digest for fold, digest in weights.items()}


def _shared(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key not in _OF_THE_FOLD}


def _has_other_folds(folder: Path) -> bool:
    return any(path.parent.name != folder.name for path in folder.parent.glob(f"fold_*/{IDENTITY_FILE}"))


def _check_file(path: Path, identity: Mapping[str, Any], what: str, remedy: str, ignored: str | None) -> None:
    """Refuse an identity that differs from that in the file `path`, if it is there; keys from `ignored` on may."""
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"cannot be read ({error})", path, remedy) from error
    if ignored is not None:
        before, identity = (
            {key: value for key, value in each.items() if not key.startswith(ignored)} for each in (before, identity)
        )
    changes = differing_keys(before, identity)
    if changes:
        raise RunError(f"{what} ({_summary(changes)})", path.parent, remedy)


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
