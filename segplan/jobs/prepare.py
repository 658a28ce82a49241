"""Before a training starts: check what can be checked without torch, and write the run's configuration."""

import hashlib
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.errors import ConfigError
from segplan.imaging import atomic_write


def run_folder(config: DictConfig) -> Path:
    """workspace/runs/DATASET/[NAME/]CONFIGURATION/RUN: without a timestamp, so that a requeued job finds itself."""
    parts = [config.dataset, *([config.plan_name] if config.plan_name else []), config.configuration, config.run]
    return Path(config.workspace, "runs", *parts)


def fold_folder(config: DictConfig) -> Path:
    """RUN/fold_K."""
    return run_folder(config) / f"fold_{config.fold}"


def prepare_run(config: DictConfig, *, waits: bool = False) -> Path:
    """Refuse what cannot work, then write RUN/fold_K/config.yaml and return its path.

    Args:
        config: the composed configuration.
        waits: it begins after another training, of a cascade's first stage, say: what that one makes may be missing.

    Raises:
        SegplanError: whatever is wrong with configuration, plan, data or run folder; nothing is written then.
    """
    from segplan.jobs.provenance import note_command
    from segplan.jobs.run_identity import check_run_folder, run_identity
    from segplan.jobs.training_setup import prepare_training

    _check_name(str(config.run))
    setup = prepare_training(config, waits=waits)
    if not waits:  # the training asks again when it begins
        check_run_folder(setup.folder, run_identity(config), starting_over=setup.starts_over)
    path = setup.folder / "config.yaml"
    with atomic_write(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    note_command(setup.folder)
    return path


def prepare_command(config: DictConfig, *, waits: bool = False) -> list[str]:
    """`prepare_run`, and the command that trains as the written file says, and as no later version of it does."""
    path = prepare_run(config, waits=waits)
    return [sys.executable, "-m", "segplan.jobs.train", str(path), config_hash(OmegaConf.load(path))]


def config_hash(config: Any) -> str:
    """What tells a run's configuration from another in the same file; not `force`, which a run takes back itself."""
    text = OmegaConf.to_yaml(OmegaConf.merge(config, {"force": False}), resolve=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_name(name: str) -> None:
    if not name or "/" in name or name in (".", ".."):
        raise ConfigError(f"run={name} cannot name a folder", remedy="Use a name without slashes.")
