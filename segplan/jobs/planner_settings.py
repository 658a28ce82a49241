"""From the node `planner` of a composed configuration to the planner's settings, and to what measures for them."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from segplan.errors import ConfigError
from segplan.jobs.measured_memory import card_gigabytes, measure_step
from segplan.planning import Measure, PlannerSettings, Trial


def planner_settings(node: Mapping[str, Any]) -> PlannerSettings:
    """The settings that `node` (plain values) holds; `gpu_memory_gb: auto` becomes the graphics card's memory.

    Raises:
        ConfigError: a value is out of its range, or there is no card to ask.
    """
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in node.items()}
    if values.get("gpu_memory_gb") == "auto":
        values["gpu_memory_gb"] = card_gigabytes()
        print(f"planner.gpu_memory_gb=auto: {values['gpu_memory_gb']:g} GB, the graphics card's")
    refuse_unknown(values, PlannerSettings, "planner")
    return PlannerSettings(**values)


def refuse_unknown(keys: Collection[str], settings: type[Any], node: str) -> None:
    """Refuse `keys` of `node` (added with +) that the dataclass `settings` does not have.

    Raises:
        ConfigError: names the first.
    """
    known = [item.name for item in fields(settings)]
    if unknown := sorted(set(keys) - set(known)):
        raise ConfigError("there is no such key", f"{node}.{unknown[0]}", f"There are: {', '.join(known)}.")


def measure_for(settings: PlannerSettings) -> Measure | None:
    """What runs training steps for `planner.memory=measured`, a line printed for each; None for `estimated`."""
    if settings.memory == "estimated":
        return None

    def measure(trial: Trial) -> float:
        taken = measure_step(trial, settings.gpu_memory_gb)
        size = "×".join(map(str, trial.patch_size))
        told = f"{taken / 2**30:.2f} GB" if taken < float("inf") else "does not fit"
        print(f"{'measured':13}{trial.network} {size} batch {trial.batch_size}: {told}", flush=True)
        return taken

    return measure
