"""Build the object that a configuration node names by its `_target_`; the only indirection of the configs.

The node's other keys become keyword arguments, nested nodes with a `_target_` are built first. It does what
Hydra's function of the same name does for segplan's configs, without Hydra: a run reads its resolved YAML alone.
"""

import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from segplan.errors import ConfigError


def instantiate(node: Any, **extra: Any) -> Any:
    """Return what `node` describes.

    Args:
        node: a mapping with `_target_` (dotted import path) and keyword arguments; `_partial_: true` gives
            `functools.partial` in place of a call. Lists and plain mappings are built element by element.
        extra: further keyword arguments of the outermost call; they win over the node's.

    Raises:
        ConfigError: `_target_` cannot be imported, or does not accept the arguments.
    """
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, Mapping) and "_target_" in node:
        return _call(node, extra)
    if isinstance(node, Mapping):
        return {key: instantiate(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [instantiate(value) for value in node]
    return node


def locate(path: str) -> Any:
    """Import the object at a dotted `path`, e.g. `torch.optim.SGD`."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A package that exists but lacks one of its own imports is another fault than a wrong path.
            if error.name is not None and not module_name.startswith(error.name):
                raise ConfigError(
                    f"importing {module_name} needs the package {error.name}, which is not installed",
                    where=f"_target_: {path}",
                    remedy=f"Install it (pip install {error.name}).",
                ) from error
            continue
        try:
            for name in parts[cut:]:
                found = getattr(found, name)
        except AttributeError:
            break
        return found
    raise ConfigError(
        "nothing can be imported under this name",
        where=f"_target_: {path}",
        remedy="Check the spelling; of a file of your own, put its folder on PYTHONPATH.",
    )


def _call(node: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
    target = locate(str(node["_target_"]))
    arguments = {key: instantiate(value) for key, value in node.items() if key not in ("_target_", "_partial_")}
    arguments |= extra
    if node.get("_partial_"):
        return functools.partial(target, **arguments)
    try:
        return target(**arguments)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            # Raised by the call itself, not inside the target: the arguments do not fit its signature.
            raise ConfigError(
                str(error), where=f"_target_: {node['_target_']}", remedy="Check the node's keys."
            ) from error
        raise
