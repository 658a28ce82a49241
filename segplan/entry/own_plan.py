"""A plan file that a person wrote on top of another: mistakes that Hydra would pass over in silence, or name badly."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from segplan.errors import ConfigError

_PACKAGE = "@package _global_"


def check_own_file(address: str, workspace: Path) -> str | None:
    """Refuse a plan file whose values would not count.

    Args:
        address: DATASET/[NAME/]FILE.
        workspace: where it stands.

    Returns:
        The address of the plan that it builds on; None for a plan of its own.

    Raises:
        ConfigError: the file lacks its header, does not build on its base as Hydra needs it, or builds on itself.
    """
    from segplan.planning.yaml_text import flow  # inside: --help needs no numpy

    path = workspace / "plan" / f"{address}.yaml"
    text = path.read_text(encoding="utf-8", errors="replace")
    content = _parsed(text)
    if content is None:
        return None  # composing says what is wrong with it
    if not any(line.startswith("#") and _PACKAGE in line for line in text.splitlines()):
        raise ConfigError("its values would not count", path, f'Make "# {_PACKAGE}" its first line.')
    entries = content.get("defaults") or []
    if not isinstance(entries, list):
        raise ConfigError("its defaults are no list", path, 'Write "  - NAME" in a line of its own for each.')
    _check_acyclic(address, workspace)
    group = address.rpartition("/")[0]
    bases = [entry for entry in entries if isinstance(entry, str) and entry.startswith("/plan/")]
    for entry in entries:
        if isinstance(entry, str) and (base := _planned_name(entry, workspace / "plan" / group)):
            right = flow(f"/plan/{group}/{base}")
            raise ConfigError(f"its base {entry} must be named in full", path, f'Write "  - {right}" in its place.')
    if not bases:
        if "plan" in content:
            return None
        usual = flow(f"/plan/{group}/3d_fullres")
        remedy = f'Begin with "defaults:", "  - {usual}" and "  - _self_".'
        raise ConfigError("it builds on no plan", path, remedy)
    if "_self_" not in entries or entries.index("_self_") < entries.index(bases[-1]):
        raise ConfigError(
            "the values of its base would win over its own", path, f'Write "  - _self_" after "  - {flow(bases[-1])}".'
        )
    base = bases[-1].removeprefix("/plan/")
    return None if base.rpartition("/")[2].startswith("_") else base


def _check_acyclic(address: str, workspace: Path, above: tuple[str, ...] = ()) -> None:
    path = workspace / "plan" / f"{address}.yaml"
    if address in above:
        raise ConfigError(f"it builds on itself ({' on '.join((*above, address))})", path, "Name another base.")
    content = _parsed(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    entries = (content or {}).get("defaults")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, str) and entry.startswith("/plan/"):
            _check_acyclic(entry.removeprefix("/plan/"), workspace, (*above, address))


def own_values(address: str, workspace: Path) -> dict[str, Any]:
    """Dotted keys of a plan file to their values, without its defaults."""
    content = _parsed((workspace / "plan" / f"{address}.yaml").read_text(encoding="utf-8", errors="replace")) or {}
    named = [(str(name), value) for name, value in content.items() if name != "defaults"]
    return {key: leaf for name, value in named for key, leaf in _leaves(name, value)}


def _parsed(text: str) -> Mapping[str, Any] | None:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return {} if content is None else content if isinstance(content, dict) else None


def _planned_name(entry: str, folder: Path) -> str | None:
    """The plan of `folder` that a defaults entry means without naming it in full."""
    if entry.startswith(("/", "_")):
        return None
    name = entry.removesuffix(".yaml").rpartition("/")[2]
    return name if (folder / f"{name}.yaml").is_file() else None


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}", item)
    else:
        yield prefix, value
