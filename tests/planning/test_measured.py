"""planner.memory=measured: a function that runs training steps sizes patch and batch; here one that computes."""

import math
from dataclasses import replace

import pytest
from plan_fixtures import fixture_inputs

from segplan.errors import ConfigError
from segplan.planning import PRESETS, Trial, plan_dataset
from segplan.planning.emit import configuration_yaml

MEASURED = replace(PRESETS["default"], memory="measured")


class Machine:
    """Takes `fixed` bytes and `each` bytes a voxel of the batch; counts what it was asked."""

    def __init__(self, each: float, fixed: float = 0.2 * 2**30, most: float = math.inf) -> None:
        self.each, self.fixed, self.most = each, fixed, most
        self.asked: list[Trial] = []

    def __call__(self, trial: Trial) -> float:
        self.asked.append(trial)
        taken = self.fixed + self.each * math.prod(trial.patch_size) * trial.batch_size
        return taken if taken <= self.most else math.inf


@pytest.mark.parametrize("each", [200, 1000, 2000, 5000])
def test_the_largest_candidate_patch_that_fits_is_taken(each: float) -> None:
    machine = Machine(each)
    plan = plan_dataset(*fixture_inputs("BraTS"), MEASURED, ["3d_fullres"], measure=machine)
    ours = plan.configurations["3d_fullres"]
    limit = 8 * 2**30
    assert machine(Trial("", (), ours.patch_size, ours.batch_size)) <= limit
    one_more = Trial("", (), ours.patch_size, ours.batch_size + 1)
    assert machine(one_more) > limit or ours.batch_size == ours.batch_cap
    larger = [step.patch_size for step in ours.trace[:-1]]
    assert all(machine(Trial("", (), patch, 2)) > limit for patch in larger)
    assert ours.measured_gb == pytest.approx(
        (machine.fixed + each * math.prod(ours.patch_size) * ours.batch_size) / 2**30
    )


def test_few_steps_are_run_and_none_twice() -> None:
    machine = Machine(2000)
    plan_dataset(*fixture_inputs("Liver"), MEASURED, measure=machine)
    assert len(machine.asked) == len(set(machine.asked))
    fullres = [trial for trial in machine.asked if len(trial.patch_size) == 3]
    assert len(fullres) < 25


def test_steps_that_exhaust_the_memory_lead_to_a_smaller_patch() -> None:
    machine = Machine(1500, most=3 * 2**30)
    ours = plan_dataset(*fixture_inputs("BraTS"), MEASURED, ["3d_fullres"], measure=machine).configurations[
        "3d_fullres"
    ]
    assert ours.measured_gb is not None
    assert ours.measured_gb <= 3
    assert "next larger did not fit" in ours.reasons["patch_size"]


def test_the_share_of_the_dataset_still_caps_the_batch() -> None:
    machine = Machine(1)
    inputs = fixture_inputs("Edge_MSD_Hippocampus_n260")
    plan = plan_dataset(*inputs, MEASURED, ["3d_fullres"], measure=machine)
    assert plan.configurations["3d_fullres"].batch_size == 9


def test_residual_presets_in_2d_hold_the_reference_batch() -> None:
    machine = Machine(4000)
    settings = replace(PRESETS["resenc_m"], memory="measured")
    ours = plan_dataset(*fixture_inputs("Prostate"), settings, ["2d"], measure=machine).configurations["2d"]
    assert ours.batch_size >= 12
    assert machine.asked[0].network == "residual_unet"
    assert dict(machine.asked[0].arguments)["input_channels"] == 2


def test_the_measured_value_stands_in_the_file() -> None:
    plan = plan_dataset(*fixture_inputs("Prostate"), MEASURED, ["3d_fullres"], measure=Machine(1500))
    ours = plan.configurations["3d_fullres"]
    text = configuration_yaml(plan, ours)
    assert f"{ours.measured_gb:.1f} GB in training (measured" in text
    assert "with which a training step on 2 samples takes at most 8 GB" in text


@pytest.mark.parametrize("planner", ["stunet_l", "decathlon2018"])
def test_planners_that_do_not_go_by_memory_only_report_what_was_measured(planner: str) -> None:
    settings = replace(PRESETS[planner], memory="measured")
    estimated = plan_dataset(*fixture_inputs("BraTS"), PRESETS[planner], ["3d_fullres"]).configurations["3d_fullres"]
    machine = Machine(4500)
    ours = plan_dataset(*fixture_inputs("BraTS"), settings, ["3d_fullres"], measure=machine).configurations[
        "3d_fullres"
    ]
    assert (ours.patch_size, ours.batch_size) == (estimated.patch_size, estimated.batch_size)
    assert len(machine.asked) == 1
    assert ours.measured_gb is not None
    assert "activation_checkpointing" in str(ours.warning)
    refused = plan_dataset(*fixture_inputs("BraTS"), settings, ["3d_fullres"], measure=lambda _: math.inf)
    assert "does not fit, as measured" in str(refused.configurations["3d_fullres"].warning)


def test_a_budget_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no 3D patch fits 8 GB"):
        plan_dataset(*fixture_inputs("BraTS"), MEASURED, ["3d_fullres"], measure=lambda _: math.inf)


def test_measuring_without_a_function_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"planner\.memory=measured"):
        plan_dataset(*fixture_inputs("BraTS"), MEASURED)
