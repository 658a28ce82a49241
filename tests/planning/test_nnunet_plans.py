"""Every plan agrees with nnU-Net 2.8.1's in every field, on published and random fingerprints."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from plan_fixtures import PLANNERS, SCHEMES, fixture_inputs, fixtures, option_plans, random_inputs, random_plans

from segplan.dataset import Description
from segplan.planning import PRESETS, ConfigurationPlan, DatasetPlan, fingerprint_from_json, plan_dataset


def _fields(configuration: ConfigurationPlan) -> dict:
    return {
        "batch_size": configuration.batch_size,
        "patch_size": list(configuration.patch_size),
        "median": list(configuration.median_shape),
        "batch_dice": configuration.batch_dice,
        "strides": [list(stride) for stride in configuration.strides],
        "kernel_sizes": [list(kernel) for kernel in configuration.kernel_sizes],
        "features_per_stage": list(configuration.features),
        "normalization_schemes": list(configuration.normalization),
        "use_mask_for_norm": list(configuration.use_mask_for_norm),
    }


def _expected(entry: dict) -> dict:
    """One configuration of an nnU-Net plans file, in the form of `_fields`, with its spacing."""
    flat = entry | entry.get("architecture", {}).get("arch_kwargs", {})
    flat["median"] = flat.get("median", flat.get("median_image_size_in_voxels"))
    flat["normalization_schemes"] = [SCHEMES[name] for name in flat["normalization_schemes"]]
    names = "batch_size patch_size median batch_dice strides kernel_sizes features_per_stage normalization_schemes"
    return {name: flat[name] for name in (*names.split(), "use_mask_for_norm", "spacing")}


def _compare(plan: DatasetPlan, transpose: list[int], expected: dict[str, dict]) -> None:
    assert list(plan.transpose) == transpose
    assert set(plan.configurations) == set(expected)
    for name, entry in expected.items():
        ours = plan.configurations[name]
        if "inherits_from" in entry:
            assert ours.previous_stage == entry["previous_stage"]
            assert _fields(ours) == _fields(plan.configurations[entry["inherits_from"]])
            continue
        theirs = _expected(entry)
        spacing = [value for value in ours.spacing if value is not None]
        assert spacing == pytest.approx(theirs.pop("spacing"), rel=0, abs=1e-9)
        assert _fields(ours) == theirs
        assert ours.next_stage == ("3d_cascade_fullres" if name == "3d_lowres" else None)


def _options(theirs: dict) -> dict:
    """Settings of ours for options of nnU-Net's planners."""
    ours = {}
    if "gpu_memory_target_in_gb" in theirs:
        ours["gpu_memory_gb"] = theirs["gpu_memory_target_in_gb"]
    if "overwrite_target_spacing" in theirs:
        ours["target_spacing"] = tuple(theirs["overwrite_target_spacing"])
    if theirs.get("suppress_transpose"):
        ours["transpose"] = False
    return ours


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("name", fixtures())
def test_plan_equals_nnunets(name: str, planner: str) -> None:
    theirs = fixtures()[name]["plans"][planner]
    plan = plan_dataset(*fixture_inputs(name), PRESETS[PLANNERS[planner]])
    _compare(plan, theirs["transpose_forward"], theirs["configurations"])


@pytest.mark.parametrize("planner", PLANNERS)
def test_125_random_plans_equal_nnunets(planner: str) -> None:
    entries = random_plans()
    assert len(entries) == 125
    for entry in entries:
        theirs = entry["expected"][planner]
        configurations = {name: value for name, value in theirs.items() if not name.startswith("transpose")}
        plan = plan_dataset(*random_inputs(entry), PRESETS[PLANNERS[planner]])
        _compare(plan, theirs["transpose_forward"], configurations)


@pytest.mark.parametrize("planner", PLANNERS)
def test_plans_with_nnunets_options_and_every_form_of_labels_equal_nnunets(planner: str) -> None:
    entries = option_plans()
    assert len(entries) == 70
    for entry in entries:
        options = _options(entry["opts"])
        settings = replace(PRESETS[PLANNERS[planner]], **options)
        description = Description.from_json(entry["dataset"], Path("dataset.json"))
        theirs = entry["expected"][planner]
        plan = plan_dataset(fingerprint_from_json(entry["fingerprint"]), description, settings, dataset="Options")
        _compare(plan, theirs["transpose_forward"], theirs["configurations"])


def test_22_fixtures_are_planned_within_a_second_of_cpu_time() -> None:
    inputs = [fixture_inputs(name) for name in fixtures()]
    assert len(inputs) == 22
    start = time.process_time()
    for fingerprint, description in inputs:
        plan_dataset(fingerprint, description, PRESETS["default"])
    assert time.process_time() - start < 1


def test_importing_planning_loads_nothing_heavy() -> None:
    heavy = ("torch", "pytorch_lightning", "hydra", "SimpleITK", "numba", "scipy", "omegaconf")
    code = f"import sys, segplan.planning; print([name for name in {heavy!r} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
