"""Compose a job's configuration with Hydra and say in one line what is wrong with an override."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from segplan.entry.arguments import quote
from segplan.entry.locations import configs_folder, planned
from segplan.entry.own_plan import check_own_file, own_values
from segplan.errors import ConfigError, PlanError


def search_path(workspace: Path) -> str:
    """The override that lets Hydra find the plans in `workspace`."""
    return f"hydra.searchpath=[{quote(f'file://{workspace}')}]"


def compose_job(job: str, arguments: Sequence[str], workspace: Path) -> DictConfig:
    """The configuration of `job` (plan, train or predict) with the user's `arguments`, interpolations resolved.

    Raises:
        ConfigError: an override cannot be parsed, names a key that does not exist, or has a value of the wrong type.
        PlanError: `plan=` names no plan of the workspace.
    """
    overrides = parse_overrides(arguments)
    # Only training composes a plan; to the other jobs `plan` is a plain value.
    folders = (configs_folder(), workspace) if job == "train" else (configs_folder(),)
    # `plan` is a group of training even before anything is planned.
    groups = [item for item in overrides if _is_group(item, folders) or (job, item.key_or_group) == ("train", "plan")]
    values = [item for item in overrides if item not in groups]
    _check_choices(groups, folders, workspace)
    paths = [search_path(workspace)] if job == "train" else []
    own = _base_of_own_file(groups, workspace)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(configs_folder()), version_base="1.3"):
        if own is not None:
            _check_own_keys(own[0], _compose(job, [*paths, f"plan={quote(own[1])}"]), workspace)
        base = _compose(job, [*paths, *(_text(item) for item in groups)])
        problems = [problem for item in values if (problem := _problem_of(item, base))]
        if problems:
            raise ConfigError("; ".join(problems))
        config = _compose(job, [*paths, *(_text(item) for item in overrides)]) if values else base
    with open_dict(config):
        choice = config.pop("_plan_choice", None)
        config.workspace = str(workspace)
        if choice is not None:
            parts = str(choice).split("/")
            config.dataset, config.configuration = parts[0], parts[-1]
            config.plan_name = "/".join(parts[1:-1]) or None
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        remedy = "Correct the interpolation (${...}); a plan's file needs its defaults list."
        raise ConfigError(str(error).splitlines()[0], remedy=remedy) from error
    return config


def compose_training(address: str, workspace: Path) -> dict[str, Any]:
    """The configuration that training with `plan=ADDRESS` gets: a user's own file may build on others.

    Raises:
        SegplanError: as `compose_job`.
    """
    config: Any = OmegaConf.to_container(compose_job("train", [f"plan={quote(address)}"], workspace), resolve=True)
    return dict(config)


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Parse overrides one by one.

    Raises:
        ConfigError: one cannot be read.
    """
    parser = OverridesParser.create()
    parsed = []
    for argument in arguments:
        try:
            parsed.extend(parser.parse_overrides([argument]))
        except HydraException as error:
            raise ConfigError(
                f"cannot read the override {argument!r}",
                remedy="Write key=value; quote values with special characters: 'key=\"a value\"'.",
            ) from error
    return parsed


def _compose(job: str, overrides: list[str]) -> DictConfig:
    try:
        config = compose(job, overrides, return_hydra_config=True)
    except yaml.YAMLError as error:
        raise ConfigError(f"a configuration file is no valid YAML ({' '.join(str(error).split())})") from error
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra's first line says what is missing; the rest lists its search path.
        raise ConfigError(str(error).splitlines()[0], remedy="Check the defaults list of the plan's file.") from error
    choice = config.hydra.runtime.choices.get("plan")
    with open_dict(config):
        del config["hydra"]
        if choice is not None:
            config["_plan_choice"] = choice
    return config


def _text(override: Override) -> str:
    return str(override.input_line)


def _is_group(override: Override, folders: Sequence[Path]) -> bool:
    return any((folder / override.key_or_group).is_dir() for folder in folders) and not isinstance(
        override.value(), dict
    )


def _check_choices(groups: Sequence[Override], folders: Sequence[Path], workspace: Path) -> None:
    if [item.key_or_group for item in groups].count("experiment") > 1:
        remedy = "Write experiment=[A,B]: both hold, and where they differ the later one."
        raise ConfigError("experiment= stands there twice", remedy=remedy)
    for item in groups:
        if item.is_delete():
            continue
        given = item.value()
        for choice in given if isinstance(given, list) else [given]:
            if isinstance(choice, str):
                _check_choice(item.key_or_group, choice, folders, workspace)


def _check_choice(group: str, choice: str, folders: Sequence[Path], workspace: Path) -> None:
    if any((folder / group / f"{choice}.yaml").is_file() for folder in folders):
        return
    if group == "plan":
        raise missing_plan(choice, workspace)
    known = sorted(file.stem for folder in folders for file in (folder / group).glob("*.yaml"))
    raise ConfigError(f"no {group}={choice}{_nearest(choice, known)}", remedy=f"There are: {', '.join(known)}.")


def _base_of_own_file(groups: Sequence[Override], workspace: Path) -> tuple[str, str] | None:
    """Address of the user's own plan file that is chosen, and of the plan it builds on."""
    choice = next((str(item.value()) for item in groups if item.key_or_group == "plan" and not item.is_delete()), None)
    if choice is None or not (workspace / "plan" / f"{choice}.yaml").is_file():
        return None
    base = check_own_file(choice, workspace)
    return (choice, base) if base and (workspace / "plan" / f"{base}.yaml").is_file() else None


def _check_own_keys(own: str, base: DictConfig, workspace: Path) -> None:
    """Refuse a misspelt key or a wrong type in a user's own file; what resembles nothing of its base is an addition."""
    problems = []
    values = own_values(own, workspace)
    # A class of the user's own has arguments of its own.
    free = (*_FREE_NAMES, "network.") if "network._target_" in values else _FREE_NAMES
    for key, value in values.items():
        if key.startswith(free):
            continue
        if _exists(base, key):
            present = OmegaConf.select(base, key, throw_on_resolution_failure=False)
            problems += [problem] if (problem := _type_problem(key, present, value)) else []
            continue
        parts = key.split(".")
        depth = next(depth for depth in range(len(parts)) if not _exists(base, ".".join(parts[: depth + 1])))
        parent = OmegaConf.select(base, ".".join(parts[:depth])) if depth else base
        siblings = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        if near := difflib.get_close_matches(parts[depth], siblings, n=1, cutoff=0.8):
            problems.append(f"unknown key {key}. Did you mean {'.'.join([*parts[:depth], near[0]])}?")
    if problems:
        raise ConfigError(" ".join(problems), workspace / "plan" / f"{own}.yaml")


def missing_plan(choice: str, workspace: Path) -> PlanError:
    """The error for a plan that is not in the workspace, naming those that are."""
    plans = planned(workspace)
    dataset, _, configuration = choice.partition("/")
    if not configuration and plans:
        return PlanError(f"plan={choice} names no configuration", remedy=f"Planned: {', '.join(plans)}.")
    same = [name.partition("/")[2] for name in plans if name.startswith(f"{dataset}/")]
    if same:
        group, _, last = choice.rpartition("/")
        beside = next((name for name in plans if name.rpartition("/")[0] == group), None)
        why = f" segplan explain plan={beside} says why there is no {last}."
        told = why if beside and last in _USUAL else ""
        return PlanError(f"no plan {choice}", remedy=f"Planned: {', '.join(same)}.{told}")
    if plans:
        return PlanError(f"no plan {choice}{_nearest(choice, plans)}", remedy=f"Planned: {', '.join(plans)}.")
    return PlanError(
        f"no plan {choice}: nothing is planned in {workspace}", remedy="Run python plan.py dataset=FOLDER first."
    )


def _problem_of(override: Override, base: DictConfig) -> str | None:
    key = override.key_or_group
    if override.is_force_add() or override.is_add() or override.is_hydra_override() or key.startswith("hydra"):
        return None
    if not _exists(base, key):
        return f"unknown key {key}{_nearest(key, list(_keys(base)))}"
    if override.is_delete():
        return None
    return _type_problem(key, OmegaConf.select(base, key, throw_on_resolution_failure=False), override.value())


_USUAL = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
_FREE_NAMES = ("plan.labels.",)
_SEVERAL_TYPES = (
    "fold",
    "inference.mirror",
    "planner.gpu_memory_gb",
    "save_probabilities",
    "trainer.devices",
    "validation.save_probabilities",
    "trainer.limit_val_batches",
)
"""Keys whose values may be of another type than the default; the job itself checks them."""


def _type_problem(key: str, default: Any, value: Any) -> str | None:
    if key in _SEVERAL_TYPES or (isinstance(value, str) and "${" in value):
        return None
    wanted: str | None = None
    if isinstance(default, bool):
        wanted = None if isinstance(value, bool) else "true or false"
    elif isinstance(default, int):
        wanted = None if isinstance(value, int | None) and not isinstance(value, bool) else "a whole number"
    elif isinstance(default, float):
        wanted = None if isinstance(value, int | float | None) and not isinstance(value, bool) else "a number"
    elif isinstance(default, DictConfig):
        wanted = None if isinstance(value, dict | None) else "a mapping"
    elif isinstance(default, ListConfig):
        wanted = None if isinstance(value, list | str | None) else "a list"
    return f"{key}={value} must be {wanted}" if wanted else None


def _exists(config: DictConfig, key: str) -> bool:
    node: Any = config
    for part in key.split("."):
        if isinstance(node, DictConfig) and part in node.keys():  # noqa: SIM118 `in node` resolves the value
            node = node._get_node(part)
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
        else:
            return False
    return True


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _keys(node, f"{prefix}{key}.")


def _nearest(given: str, known: Sequence[str]) -> str:
    # A misspelt first part must not hide a right last part: compare whole keys, then the last parts.
    matches = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    if not matches:
        last = {name.rsplit(".", 1)[-1]: name for name in known}
        matches = [
            last[match] for match in difflib.get_close_matches(given.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.75)
        ]
    return f". Did you mean {matches[0]}?" if matches else ""
