"""The closing table of planning, as text for a job to print."""

from dataclasses import dataclass

import numpy as np

from segplan.planning.fingerprint import PICTURE_SPACING, Fingerprint
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


def describe_images(fingerprint: Fingerprint) -> str:
    """Median resolution and size of the images; pictures have pixels and no spacing, 2D files no slice distance."""
    spacing, shape = np.median(fingerprint.spacings, axis=0), np.median(fingerprint.shapes_after_crop, axis=0)
    if all(depth == 1 for depth, _, _ in fingerprint.shapes_after_crop):
        spacing, shape = spacing[1:], shape[1:]
    size = "×".join(f"{edge:.0f}" for edge in shape)
    if set(fingerprint.spacings) == {PICTURE_SPACING}:
        return f"pictures of {size} pixels (median)"
    return f"spacing {'×'.join(f'{value:.3g}' for value in spacing)} mm (median)  size {size}"


def gigabytes(amount: float) -> str:
    """Memory as text: 7.0 GB, 0.04 GB."""
    return f"{amount:.1f} GB" if amount >= 0.1 else f"{amount:.1g} GB"


def _row(configuration: ConfigurationPlan) -> PlanRow:
    return PlanRow(
        configuration=configuration.name,
        patch=times(configuration.patch_size),
        batch=f"batch {configuration.batch_size}",
        stages=f"{len(configuration.strides)} stages",
        parameters=f"{configuration.parameters / 1e6:.1f} M parameters",
        memory=_memory(configuration),
        note=f"cannot run: {configuration.not_runnable}" if configuration.not_runnable else "",
    )


def _memory(configuration: ConfigurationPlan) -> str:
    if configuration.measured_gb is not None:
        return f"{gigabytes(configuration.measured_gb)} measured"
    return f"~{gigabytes(configuration.memory_gb)}"
