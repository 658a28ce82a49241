"""The closing table of planning, as text for a job to print."""

from collections.abc import Mapping
from dataclasses import dataclass

from segplan.planning.plan import ConfigurationPlan, DatasetPlan
from segplan.planning.reasons import times


@dataclass(frozen=True)
class PlanRow:
    """One configuration as text; `note` alone is set where it is not planned, and says why."""

    configuration: str
    patch: str = ""
    batch: str = ""
    stages: str = ""
    parameters: str = ""
    memory: str = ""
    note: str = ""


def plan_table(plan: DatasetPlan) -> list[PlanRow]:
    """A row for each configuration that was asked for, in the usual order."""
    planned = [_row(configuration) for configuration in plan.configurations.values()]
    return planned + [PlanRow(name, note=why) for name, why in plan.not_planned.items()]


def describe_dataset(plan: DatasetPlan) -> Mapping[str, str]:
    """Dataset, cases, channels, classes: the table's heading, part by part."""
    classes = f"{plan.num_classes} regions" if plan.has_regions else f"{plan.num_classes - 1} classes"
    return {
        "dataset": plan.dataset,
        "cases": f"{plan.num_cases} cases",
        "channels": ", ".join(plan.channels),
        "classes": classes,
    }


def _row(configuration: ConfigurationPlan) -> PlanRow:
    return PlanRow(
        configuration=configuration.name,
        patch=times(configuration.patch_size),
        batch=f"batch {configuration.batch_size}",
        stages=f"{len(configuration.strides)} stages",
        parameters=f"{configuration.parameters / 1e6:.1f} M parameters",
        memory=f"~{configuration.memory_gb:.1f} GB",
        note=f"cannot run: {configuration.not_runnable}" if configuration.not_runnable else "",
    )
