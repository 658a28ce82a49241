"""The job `segplan explain`: plan again from what stands beside a plan, and print how each value came about."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segplan.errors import PlanError
from segplan.jobs.console import print_table
from segplan.jobs.plan_description import read_plan_description
from segplan.jobs.plan_node import check_schema
from segplan.planning import CONFIGURATIONS, PlannerSettings, plan_dataset, read_fingerprint
from segplan.planning.explanation import BatchSize, Decision, Explanation, PatchSearch, explain
from segplan.planning.reasons import times
from segplan.planning.recorded import settings_of
from segplan.planning.table import gigabytes
from segplan.planning.yaml_text import flow, short

_WIDTH = 20
_MOST_STEPS = 12


def run(present: Mapping[str, Any], folder: Path, address: str) -> int:
    """Print the trace of a plan; returns the exit code.

    Args:
        present: the composed configuration, nodes `plan`, `data`, `network` and so on.
        folder: of the plan, workspace/plan/DATASET[/NAME].
        address: DATASET/[NAME/]CONFIGURATION.

    Raises:
        PlanError: the plan is of another version, or what it was made from is missing.
    """
    explanation, notes = explanation_of(present, folder, address)
    print_explanation(explanation, address)
    for note in notes:
        print(f"note: {note}")
    return 0


def explanation_of(present: Mapping[str, Any], folder: Path, address: str) -> tuple[Explanation, list[str]]:
    """Make the plan again from the fingerprint, dataset.json and settings in `folder`; with notes for the user."""
    node = present["plan"]
    check_schema(node, address)
    fingerprint_file, description_file = folder / "dataset_fingerprint.json", folder / "dataset.json"
    for path in (fingerprint_file, description_file):
        if not path.is_file():
            raise PlanError("is missing, and the plan cannot be made again without it", path, "Plan again.")
    fingerprint = read_fingerprint(fingerprint_file)
    description = read_plan_description(description_file, node.get("label_ending"))
    settings, notes = _estimating(settings_of(str(node["planner"]), node.get("planner_settings") or {}))
    parts = address.split("/")
    name = str(node["configuration"])
    plan = plan_dataset(
        fingerprint,
        description,
        settings,
        CONFIGURATIONS,
        dataset=str(node["dataset"]),
        plan_name="/".join(parts[1:-1]) or None,
    )
    if name not in plan.configurations:
        what = f"is not what the rules plan any more ({name} is {plan.not_planned[name]})"
        raise PlanError(what, address, "Somebody edited the file, so it was kept: remove it if nobody needs it.")
    return explain(plan, name, fingerprint, settings, present), notes


def print_explanation(explanation: Explanation, address: str) -> None:
    """Print the steps in the order in which they were decided."""
    settings = "".join(f", planner.{key}={flow(value)}" for key, value in explanation.planner_settings.items())
    origin = f"planner {explanation.planner}{settings}, fingerprint {explanation.fingerprint}"
    print(f"{address} · {origin} ({explanation.num_cases} cases)")
    _heading("Images")
    print(f"  {', '.join(explanation.channels)} · {explanation.images}")
    _heading("Resolution and intensities")
    _print_decisions([*explanation.resolution, *explanation.intensities])
    _heading("Patch")
    _print_patch(explanation.patch)
    _heading("Batch")
    _print_batch(explanation.batch, "memory" if explanation.patch.by_memory else "voxels")
    size = f"{explanation.parameters / 1e6:.1f} M parameters, about {gigabytes(explanation.memory_gb)} in training"
    _heading(f"Network: {size}")
    _print_decisions(explanation.network)
    _heading("Training")
    _print_decisions(explanation.training)
    _heading("Other configurations")
    for other in explanation.others:
        planned = "" if other.value is None else f"planned at {short(other.value)} "
        print(f"  {other.key:<{_WIDTH}}{planned}{other.reason}")
    if explanation.not_runnable:
        print(f"\nIt cannot be trained: {explanation.not_runnable}.")
    _print_differences(explanation)


def _estimating(settings: PlannerSettings) -> tuple[PlannerSettings, list[str]]:
    if settings.memory == "estimated":
        return settings, []
    note = "patch and batch were sized by measuring on a card; above stands what the estimate gives instead"
    return replace(settings, memory="estimated"), [note]


def _heading(text: str) -> None:
    print(f"\n{text}")


def _print_decisions(decisions: Sequence[Decision]) -> None:
    for decision in decisions:
        value, indent = short(decision.value), " " * (_WIDTH + 2)
        print(f"  {decision.key.rpartition('.')[2]:<{_WIDTH}}{value}")
        print(f"{indent}{decision.reason}")


def _print_patch(search: PatchSearch) -> None:
    if not search.by_memory:
        print(f"  {times(search.steps[-1].patch_size)}  {search.reason}")
        return
    print(
        f"  shortened until it needs at most {search.budget / 1e6:.0f} M features: {search.budget_gb:g} GB holds these"
    )
    rows = []
    for number, step in enumerate(search.steps):
        why = "start: the rules' largest patch, cut to the median image, rounded up to the strides"
        if step.shortened_axis is not None:
            why = f"{search.axes[step.shortened_axis]} shortened: it was the longest relative to the median image"
        elif number:
            why = "repaired: enlarged so that it can be halved; it may exceed the image and the budget"
        fits = "fits" if number == len(search.steps) - 1 else "too much"
        rows.append([times(step.patch_size), f"{step.features / 1e6:.1f} M", fits, why])
    if len(rows) > _MOST_STEPS:
        half = _MOST_STEPS // 2
        rows[half:-half] = [[f"… {len(rows) - 2 * half} more …", "", "", ""]]
    print_table([], rows, indent="  ")


def _print_batch(batch: BatchSize, by: str) -> None:
    print(f"  {batch.chosen}  {batch.reason}")
    if batch.affordable is not None and batch.cap is not None:
        limits = f"{by} {batch.affordable}, share of the dataset {batch.cap}"
        print(f"  limits: {limits}; the smaller counts, but at least {batch.minimum}")


def _print_differences(explanation: Explanation) -> None:
    if not explanation.differences:
        print("\nThe plan in use has these values.")
        return
    print("\nThe plan in use differs (edited, built on top, or planned by another version of segplan):")
    rows = [[item.key, short(item.present), f"by the rules {short(item.planned)}"] for item in explanation.differences]
    print_table([], rows, indent="  ")
