"""The settings that a plan records make the same settings again."""

from dataclasses import replace

import pytest

from segplan.errors import PlanError
from segplan.planning import PRESETS
from segplan.planning.recorded import changed_settings, settings_of


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_nothing_to_record(name: str) -> None:
    assert changed_settings(PRESETS[name]) == {}
    assert settings_of(name, {}) == PRESETS[name]


@pytest.mark.parametrize("name", ["default", "resenc_l", "my_own"])
def test_what_is_changed_is_recorded_and_read_back_from_yamls_lists(name: str) -> None:
    base = PRESETS.get(name, replace(PRESETS["default"], name=name))
    settings = replace(base, gpu_memory_gb=11.0, target_spacing=(1.0, 2.0, 3.0), blocks_per_stage=(1, 2))
    changed = changed_settings(settings)
    assert set(changed) == {"gpu_memory_gb", "target_spacing", "blocks_per_stage"}
    assert settings_of(name, changed | {"target_spacing": [1.0, 2.0, 3.0], "blocks_per_stage": [1, 2]}) == settings


def test_settings_of_another_version_are_refused() -> None:
    with pytest.raises(PlanError, match="gpu_memory_tb"):
        settings_of("default", {"gpu_memory_tb": 1})
