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


def prepare_run(config: DictConfig) -> Path:
    """Refuse what cannot work, then write RUN/fold_K/config.yaml and return its path.

    Raises:
        SegplanError: whatever is wrong with configuration, plan, data or run folder; nothing is written then.
    """
    check_run(config)
    return write_run(config)


def check_run(config: DictConfig, *, waits: bool = False) -> None:
    """Refuse what cannot work; writes nothing.

    Args:
        config: the composed configuration.
        waits: it begins after other trainings, of a cascade's first stage, whose results may be missing now.

    Raises:
        SegplanError: whatever is wrong with configuration, plan, data or run folder.
    """
    from segplan.jobs.run_identity import check_run_folder, run_identity
    from segplan.jobs.training_setup import prepare_training

    check_name(str(config.run))
    setup = prepare_training(config, waits=waits)
    how = {"starting_over": setup.starts_over, "waits": waits, "trains": config.mode == "train"}
    check_run_folder(setup.folder, run_identity(config), **how)


def write_run(config: DictConfig) -> Path:
    """Write RUN/fold_K/config.yaml and return its path."""
    from segplan.jobs.provenance import note_command

    path = fold_folder(config) / "config.yaml"
    with atomic_write(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    note_command(path.parent)
    return path


def prepare_command(config: DictConfig) -> list[str]:
    """`prepare_run`, and the command that trains."""
    return run_command(prepare_run(config))


def run_command(path: Path) -> list[str]:
    """The command that trains as the file at `path` says now, and as no later version of it does."""
    return [sys.executable, "-m", "segplan.jobs.train", str(path), config_hash(OmegaConf.load(path))]


def config_hash(config: Any) -> str:
    """What tells a run's configuration from another in the same file; not `force`, which a run takes back itself."""
    text = OmegaConf.to_yaml(OmegaConf.merge(config, {"force": False}), resolve=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_configuration(path: Path, config: DictConfig) -> bool:
    """Whether a run's file holds this configuration."""
    if not path.is_file():
        return False
    as_written = OmegaConf.create(OmegaConf.to_yaml(config, resolve=True))
    return config_hash(OmegaConf.load(path)) == config_hash(as_written)


def check_name(name: str) -> None:
    """Refuse what cannot name a run's folder.

    Raises:
        ConfigError: it is empty, or a path.
    """
    if not name or "/" in name or name in (".", ".."):
        raise ConfigError(f"run={name} cannot name a folder", remedy="Use a name without slashes.")
