"""How long a configuration trains and what disk it takes: measured where it has trained, else timed for a moment."""

import csv
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segplan.jobs.plan_node import store_folder

_TIMED_SECONDS = 20.0  # that are enough
_BESIDES = 1.2  # of an epoch's training steps: its validation patches, loading, metrics
_VALUES_PER_PARAMETER = 9  # three checkpoints with momentum and three files of weights, one more being written
_BYTES = 4


@dataclass(frozen=True)
class Estimate:
    """What one fold takes.

    Args:
        epoch_seconds: of an epoch.
        basis: where that comes from, in words.
        disk_bytes: of checkpoints, weights and the fold's label maps.
    """

    epoch_seconds: float
    basis: str
    disk_bytes: int


def estimate(workspace: Path, plan: str, config: Mapping[str, Any], folds: int) -> Estimate:
    """What a fold of `plan` takes with this composed configuration; the folds share the label maps of the dataset.

    Args:
        workspace: the workspace's folder.
        plan: DATASET/[NAME/]CONFIGURATION.
        config: its composed configuration with all overrides.
        folds: how many there are.
    """
    batches = int(config["trainer"]["limit_train_batches"])
    measured = measured_epoch(workspace, plan, config)
    maps = sum(path.stat().st_size for path in store_folder(workspace, config["plan"]).glob("*.reference.npz"))
    parameters, step = step_seconds(config, timed=measured is None)
    disk = _VALUES_PER_PARAMETER * _BYTES * parameters + maps // max(folds, 1)
    if measured is not None:
        return Estimate(measured, "as measured in a fold before", disk)
    return Estimate(step * batches * _BESIDES, f"{step:.2g} s a step, timed here", disk)


def measured_epoch(workspace: Path, plan: str, config: Mapping[str, Any]) -> float | None:
    """Median seconds of an epoch in a run of this plan with the same batches; None if there is none."""
    import yaml

    for path in sorted((workspace / "runs" / plan).glob("*/fold_*/metrics.csv")):
        try:
            known = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
            with path.open(newline="", encoding="utf-8") as file:
                seconds = [float(row["epoch_s"]) for row in csv.DictReader(file) if row.get("epoch_s")]
        except (OSError, ValueError, KeyError, yaml.YAMLError):
            continue
        if seconds and _effort(known) == _effort(config):
            return statistics.median(seconds)
    return None


def step_seconds(config: Mapping[str, Any], *, timed: bool = True) -> tuple[int, float]:
    """Parameters of the network, and seconds of a training step on random values; 0 if it is not to be `timed`."""
    import torch

    from segplan.jobs.instantiate import instantiate
    from segplan.jobs.network_node import network_node

    network = instantiate(network_node(config["network"]))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if not timed:
        return parameters, 0.0
    wanted = str(config["trainer"]["accelerator"])
    device = torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
    network = network.to(device).train()
    shape = (int(config["data"]["batch_size"]), int(config["plan"]["input_channels"]), *config["data"]["patch_size"])
    images = torch.randn(shape, device=device)
    kind = torch.bfloat16 if device.type == "cuda" or str(config["trainer"]["precision"]).startswith("bf16") else None
    begun = time.monotonic()
    taken: list[float] = []
    while len(taken) < 3 and (not taken or time.monotonic() - begun < _TIMED_SECONDS):
        start = time.monotonic()
        with torch.autocast(device.type, kind, enabled=kind is not None):
            outputs = network(images)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        sum(output.float().square().mean() for output in outputs).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.monotonic() - start)
    return parameters, min(taken)


def _effort(config: object) -> object:
    """What decides how long an epoch takes, as far as the configuration says."""
    if not isinstance(config, Mapping):
        return None
    data, trainer = config.get("data") or {}, config.get("trainer") or {}
    return [
        list(data.get("patch_size") or []),
        data.get("batch_size"),
        trainer.get("limit_train_batches"),
        config.get("network"),
    ]
