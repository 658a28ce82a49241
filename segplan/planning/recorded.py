"""A plan records the settings it was made with, so that `segplan explain` can make it again: those its preset lacks."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from segplan.errors import PlanError
from segplan.planning.settings import PRESETS, PlannerSettings


def changed_settings(settings: PlannerSettings) -> dict[str, Any]:
    """The settings that differ from those of the preset of this name (of `default`, where there is none)."""
    preset = asdict(PRESETS.get(settings.name, PRESETS["default"]))
    return {key: value for key, value in asdict(settings).items() if key != "name" and value != preset[key]}


def settings_of(planner: str, changed: Mapping[str, Any]) -> PlannerSettings:
    """The inverse of `changed_settings`.

    Args:
        planner: `plan.planner` of a plan.
        changed: its `plan.planner_settings`.

    Raises:
        PlanError: a setting is not one of this version's.
        ConfigError: a value is out of its range.
    """
    known = {item.name for item in fields(PlannerSettings)}
    if unknown := sorted(set(changed) - known):
        raise PlanError(
            f"the plan was made with settings that segplan does not know here: {', '.join(unknown)}",
            "plan.planner_settings",
            "Plan again, or use the version of segplan that the file's header names.",
        )
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in changed.items()}
    return replace(PRESETS.get(planner, PRESETS["default"]), name=planner, **values)
