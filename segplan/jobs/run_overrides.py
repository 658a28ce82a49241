"""Which overrides a run was started with: what its configuration has that its plan does not give."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_OF_THE_RUN = {"workspace", "dataset", "configuration", "plan_name", "run", "fold", "mode", "force", "debug"}


def overrides_of_run(folder: Path, compose: Callable[[], Mapping[str, Any]]) -> list[str]:
    """`key=value` words that make the plan's configuration that of the run; none if no fold of it began.

    Args:
        folder: of the run.
        compose: gives the configuration without overrides.
    """
    import yaml

    files = sorted(folder.glob("fold_*/config.yaml"))
    if not files:
        return []
    present = yaml.safe_load(files[0].read_text(encoding="utf-8"))
    return overrides_between(compose(), present) if isinstance(present, dict) else []


def overrides_between(base: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Hydra overrides that turn the configuration `base` into `present`, sorted by key.

    A key that only `base` has came with a later version of segplan; its default holds.
    """
    before = {key: value for key, value in base.items() if key not in _OF_THE_RUN}
    after = {key: value for key, value in present.items() if key not in _OF_THE_RUN}
    return sorted(_between(before, after, ""), key=lambda word: word.lstrip("+"))


def _between(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> list[str]:
    words: list[str] = []
    for key, value in after.items():
        name = f"{prefix}{key}"
        if key not in before:
            words.append(f"+{name}={_flow(value)}")
        elif isinstance(value, Mapping) and isinstance(before[key], Mapping):
            words += _between(before[key], value, f"{name}.")
        elif value != before[key]:
            words.append(f"{name}={_flow(value)}")
    return words


def _flow(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_flow(item) for item in value) + "]"
    if isinstance(value, str):
        # Words that Hydra would read as a number, null or a list keep their quotes.
        return value if value.replace("_", "").replace("-", "").isalpha() and value not in _WORDS else json.dumps(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_WORDS = {"null", "true", "false", "True", "False", "nan", "inf"}
