"""How a plan came about, step by step, as data: what `segplan explain` prints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from segplan.planning.configured import PatchStep
from segplan.planning.emit import configuration_yaml, dataset_yaml
from segplan.planning.fingerprint import Fingerprint
from segplan.planning.plan import CONFIGURATIONS, ConfigurationPlan, DatasetPlan
from segplan.planning.settings import PlannerSettings
from segplan.planning.table import describe_images

_NOT_PLANNED = ("plan.segplan_version", "plan.planner", "plan.planner_settings")  # say who planned, not what


@dataclass(frozen=True)
class Decision:
    """A value of the plan and the sentence that says from what and by which rule it came."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class PatchSearch:
    """The way to the patch: candidates with their needs, the chosen one last.

    Args:
        axes: names of the patch's axes, such as `zyx`.
        by_memory: whether it was shortened until it fits; else it follows from the median image alone.
        steps: the candidates.
        budget: feature-map elements that the memory holds, comparable with the steps' needs.
        budget_gb: that memory.
        reason: the sentence that stands in the file.
    """

    axes: str
    by_memory: bool
    steps: tuple[PatchStep, ...]
    budget: float
    budget_gb: float
    reason: str


@dataclass(frozen=True)
class BatchSize:
    """What the batch size was chosen among; None where the planner has no such rule."""

    chosen: int
    affordable: int | None
    cap: int | None
    minimum: int
    reason: str


@dataclass(frozen=True)
class Difference:
    """A value that is not what the rules give: somebody edited it, or another version planned it."""

    key: str
    present: Any
    planned: Any


@dataclass(frozen=True)
class Explanation:
    """Everything that was decided about one configuration, in the order in which it was decided."""

    group: str
    configuration: str
    planner: str
    planner_settings: Mapping[str, Any]
    fingerprint: str
    num_cases: int
    images: str
    channels: tuple[str, ...]
    resolution: tuple[Decision, ...]
    """Spacing, axis order, median size."""
    intensities: tuple[Decision, ...]
    """Normalisation and its mask."""
    patch: PatchSearch
    batch: BatchSize
    network: tuple[Decision, ...]
    training: tuple[Decision, ...]
    """Augmentation and loss."""
    parameters: int
    memory_gb: float
    not_runnable: str | None
    others: tuple[Decision, ...]
    """The further configurations: whether each is planned (its spacing) or why it is not."""
    differences: tuple[Difference, ...]


def explain(
    plan: DatasetPlan, name: str, fingerprint: Fingerprint, settings: PlannerSettings, present: Mapping[str, Any]
) -> Explanation:
    """Explain configuration `name`.

    Args:
        plan: made again from what the plan's folder holds, with all configurations.
        name: of the configuration.
        fingerprint: what it was planned from.
        settings: what it was planned with.
        present: the configuration as it is used now, nodes `plan`, `data`, `network` and so on.
    """
    configuration = plan.configurations[name]
    axes = "".join("zyx"[axis] for axis in plan.transpose)[-len(configuration.patch_size) :]
    reasons = configuration.reasons
    return Explanation(
        group=plan.group,
        configuration=name,
        planner=plan.planner,
        planner_settings=plan.planner_settings,
        fingerprint=plan.fingerprint_hash,
        num_cases=plan.num_cases,
        images=describe_images(fingerprint),
        channels=plan.channels,
        resolution=(
            Decision("plan.spacing", list(configuration.spacing), reasons["spacing"]),
            Decision("plan.transpose", list(plan.transpose), reasons["transpose"]),
            Decision("plan.median_shape", list(configuration.median_shape), reasons["median_shape"]),
        ),
        intensities=_decisions(configuration, "plan", ("normalization", "use_mask_for_norm")),
        patch=PatchSearch(
            axes,
            settings.rules == "memory_budget",
            configuration.trace,
            settings.budget(len(axes)),
            settings.gpu_memory_gb,
            reasons["patch_size"],
        ),
        batch=BatchSize(
            configuration.batch_size,
            configuration.affordable_batch,
            configuration.batch_cap,
            settings.min_batch_size,
            reasons["batch_size"],
        ),
        network=tuple(
            Decision(f"network.{key}", value, reasons[key]) for key, value in configuration.network_arguments.items()
        ),
        training=(
            *_decisions(configuration, "augmentation", ("dummy_2d",)),
            *_decisions(configuration, "loss", ("batch_dice",)),
        ),
        parameters=configuration.parameters,
        memory_gb=configuration.memory_gb,
        not_runnable=configuration.not_runnable,
        others=tuple(_other(plan, other) for other in CONFIGURATIONS if other != name),
        differences=_differences(planned_values(plan, configuration), flatten(present)),
    )


def planned_values(plan: DatasetPlan, configuration: ConfigurationPlan) -> dict[str, Any]:
    """Dotted key to value of all that the plan's files say about `configuration`."""
    shared, own = (yaml.safe_load(text) for text in (dataset_yaml(plan), configuration_yaml(plan, configuration)))
    return flatten(shared) | {key: value for key, value in flatten(own).items() if key != "defaults"}


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested mappings; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def _decisions(configuration: ConfigurationPlan, node: str, names: Sequence[str]) -> tuple[Decision, ...]:
    return tuple(
        Decision(f"{node}.{name}", getattr(configuration, name), configuration.reasons[name]) for name in names
    )


def _other(plan: DatasetPlan, name: str) -> Decision:
    if name in plan.not_planned:
        return Decision(name, None, plan.not_planned[name])
    configuration = plan.configurations[name]
    return Decision(name, list(configuration.spacing), configuration.reasons["spacing"])


def _differences(planned: Mapping[str, Any], present: Mapping[str, Any]) -> tuple[Difference, ...]:
    return tuple(
        Difference(key, present.get(key), value)
        for key, value in planned.items()
        if not key.startswith(_NOT_PLANNED) and present.get(key) != value
    )
