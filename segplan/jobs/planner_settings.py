"""From the node `planner` of a composed configuration to the planner's settings, and to what measures for them."""

from collections.abc import Mapping
from typing import Any

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
    return PlannerSettings(**values)


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
