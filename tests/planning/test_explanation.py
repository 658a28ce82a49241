"""The trace of a plan as data, and two plans side by side."""

from dataclasses import replace

import pytest
from plan_fixtures import fixture_inputs, fixtures

from segplan.planning import PRESETS, DatasetPlan, plan_dataset
from segplan.planning.comparison import compare, reasons_in, side
from segplan.planning.emit import configuration_yaml, dataset_yaml
from segplan.planning.explanation import Difference, Explanation, explain, planned_values


def _plan(name: str, **changes: object) -> DatasetPlan:
    fingerprint, description = fixture_inputs(name)
    return plan_dataset(fingerprint, description, replace(PRESETS["default"], **changes), dataset="Dataset900_Test")


def _nested(values: dict[str, object]) -> dict[str, object]:
    nodes: dict = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = nodes
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return nodes


def _explained(name: str, configuration: str, **changes: object) -> Explanation:
    plan = _plan(name)
    present = planned_values(plan, plan.configurations[configuration]) | changes
    return explain(plan, configuration, fixture_inputs(name)[0], PRESETS["default"], _nested(present))


@pytest.mark.parametrize("name", fixtures())
def test_every_configuration_of_every_fixture_is_explained_by_its_own_values(name: str) -> None:
    plan = _plan(name)
    for configuration in plan.configurations.values():
        found = _explained(name, configuration.name)
        assert found.differences == ()
        assert found.patch.steps[-1].patch_size == configuration.patch_size
        assert found.patch.steps[-1].features <= found.patch.budget
        assert all(step.features > found.patch.budget for step in found.patch.steps[:-1])
        assert found.batch.chosen == max(min(found.batch.affordable, found.batch.cap), found.batch.minimum)
        assert {other.key for other in found.others} == {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"} - {
            configuration.name
        }
        assert all(decision.reason for decision in (*found.resolution, *found.network, *found.others))


def test_the_patch_of_the_prostate_is_shortened_once() -> None:
    found = _explained("Prostate", "3d_fullres")
    assert [step.patch_size for step in found.patch.steps] == [(20, 320, 320), (20, 320, 256)]
    assert (found.patch.axes, found.patch.steps[-1].shortened_axis) == ("zyx", 2)
    assert found.patch.budget == pytest.approx(560e6)


def test_values_that_somebody_changed_are_named() -> None:
    found = _explained("Prostate", "3d_fullres", **{"data.batch_size": 5, "plan.planner": "other"})
    assert found.differences == (Difference("data.batch_size", 5, 2),)


def test_comments_of_a_file_are_its_reasons() -> None:
    plan = _plan("Prostate")
    reasons = reasons_in(configuration_yaml(plan, plan.configurations["3d_fullres"]))
    assert reasons["data.patch_size"] == plan.configurations["3d_fullres"].reasons["patch_size"]
    assert reasons["loss.batch_dice"].startswith("no 3d_lowres")
    assert reasons["plan.runnable"] == ""
    assert reasons_in("data:\n  batch_size: 3  # mine\ntrainer:  # yes\n  max_epochs: 4\n") == {
        "data.batch_size": "mine",
        "trainer.max_epochs": "",
    }


def test_two_plans_differ_in_named_values_with_the_reasons_of_both() -> None:
    sides = []
    for gigabytes in (8.0, 4.0):
        plan = _plan("Prostate", gpu_memory_gb=gigabytes)
        configuration = plan.configurations["3d_fullres"]
        texts = [configuration_yaml(plan, configuration), dataset_yaml(plan)]
        sides.append(side(str(gigabytes), _nested(planned_values(plan, configuration)), texts))
    found = {item.key: item for item in compare(*sides)}
    assert {"data.patch_size", "plan.planner_settings.gpu_memory_gb"} <= set(found)
    patch = found["data.patch_size"]
    assert patch.values[0] == [20, 320, 256]
    assert "the 8 GB budget" in patch.reasons[0]
    assert "the 4 GB budget" in patch.reasons[1]
    memory = found["plan.planner_settings.gpu_memory_gb"]
    assert (memory.present, memory.values, memory.reasons[0]) == ((False, True), (None, 4.0), "")
    assert "plan.spacing" not in found
    assert compare(sides[0], sides[0]) == ()
