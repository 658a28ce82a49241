"""provenance.json of a fold: by which commands, with which versions, on which machines and data it was trained."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import segplan
from segplan.imaging import atomic_write
from segplan.jobs.run_identity import PROVENANCE_FILE
from segplan.jobs.training_setup import TrainingSetup
from segplan.preprocessing.cpus import available_cpus

PACKAGES = (
    "torch", "pytorch-lightning", "torchmetrics", "numpy", "scipy", "numba", "SimpleITK", "torchio", "hydra-core",
    "omegaconf", "safetensors",
)  # fmt: skip
"""Packages whose version may change a result."""
_MOST_STARTS = 50  # that are kept: a run that is requeued every hour must not grow its file for ever


def read_provenance(folder: Path) -> dict[str, Any]:
    """What RUN/fold_K/provenance.json says: `command` and `starts`; empty if there is none."""
    try:
        content: Any = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(content) if isinstance(content, dict) else {}


def note_command(folder: Path) -> None:
    """Write down the command line of this process as the one that (re)started the fold of `folder`."""
    _write(folder, read_provenance(folder) | {"command": shlex.join(sys.orig_argv), "directory": str(Path.cwd())})


def note_start(setup: TrainingSetup) -> None:
    """Add versions, machine, seed and data of the training that begins now."""
    known = read_provenance(setup.folder)
    starts = known.get("starts")
    kept = list(starts)[-_MOST_STARTS + 1 :] if isinstance(starts, list) else []
    _write(setup.folder, {"command": None, **known, "starts": [*kept, describe(setup)]})


def describe(setup: TrainingSetup) -> dict[str, Any]:
    """Versions, machine, seed and data of a training on this machine."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": int(setup.config.seed),
        "determinism": setup.config.get("determinism"),
        "versions": versions(),
        "git": git_revision(Path(segplan.__file__).parent),
        "hardware": hardware(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "plan": _hash(_plain(setup)["plan"]),
        "plan file": _file_hash(plan_file(setup)),  # what a run trains with is its own config.yaml
        "data": data_hash(setup),
    }


def versions() -> dict[str, str]:
    """The version of Python, of segplan and of each package that may change a result; heavy ones are not imported."""
    found = {"python": platform.python_version(), "segplan": segplan.__version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def hardware() -> dict[str, Any]:
    """Host, processor, usable cores, memory and GPUs."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": available_cpus(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def processor() -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def git_revision(folder: Path) -> str | None:
    """The commit checked out where `folder` stands, with `+changes` where files differ; None outside of git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return revision + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def plan_file(setup: TrainingSetup) -> Path:
    """The plan that the fold was composed from, as it stands in the workspace now."""
    config = setup.config
    plan = [config.dataset, *([config.plan_name] if config.plan_name else [])]
    return Path(config.workspace, "plan", *plan, f"{config.configuration}.yaml")


def _file_hash(path: Path) -> str | None:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return None


def data_hash(setup: TrainingSetup) -> str:
    """Of the content of all preprocessed cases of the fold, by the checksums in their descriptions."""
    cases = [*setup.split.train, *setup.split.validation]
    return _hash({case: {end: dict(meta) for end, meta in setup.store.open(case).files.items()} for case in cases})


def _hash(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _plain(setup: TrainingSetup) -> dict[str, Any]:
    from omegaconf import OmegaConf

    container: Any = OmegaConf.to_container(setup.config, resolve=True)
    return dict(container)


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(folder / PROVENANCE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
