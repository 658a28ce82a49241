"""From a configuration node to a pipeline."""

import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from segplan.augmentation.mirror import Mirror
from segplan.augmentation.pipeline import Pipeline
from segplan.augmentation.spatial import Spatial
from segplan.augmentation.torchio_bridge import TorchioTransform
from segplan.augmentation.transform import Context
from segplan.errors import ConfigError

_SETTINGS = ("device", "dummy_2d")


def build_pipeline(node: Mapping[str, Any], patch_size: Sequence[int], use_mask_for_norm: Sequence[bool]) -> Pipeline:
    """Build the training pipeline that an `augmentation` node describes.

    Args:
        node: `device`, `dummy_2d`, and in order named transforms, each a mapping with `_target_` and its numbers.
            A null transform, or one whose probability is 0, is off. `spatial`, which cuts the patch, comes first.
        patch_size: network patch, 2 or 3 entries.
        use_mask_for_norm: per image channel, whether it was normalised within the nonzero mask.

    Raises:
        ConfigError: a key, value or transform that cannot work, or an order that cannot.
    """
    if node.get("device", "cpu") != "cpu":
        raise ConfigError(
            f"{node['device']!r} is not available",
            where="augmentation.device",
            remedy="Use cpu, which runs in the loader's workers.",
        )
    context = Context(len(use_mask_for_norm), tuple(patch_size), bool(node.get("dummy_2d", False)))
    if context.dummy_2d and len(context.patch_size) != 3:
        raise ConfigError("a 2D patch has no thick axis", where="augmentation.dummy_2d", remedy="Set it to false.")
    spatial: Spatial | None = None
    transforms: list[tuple[str, Any]] = []
    for name, description in node.items():
        if name in _SETTINGS or description is None:
            continue
        transform = _build_transform(name, description)
        if isinstance(transform, Spatial):
            if spatial is not None or transforms:
                raise ConfigError(
                    "rotation and scaling cut the patch, so they come first and once",
                    where=f"augmentation: {name}",
                    remedy="List it before the others.",
                )
            spatial = transform if transform.rotation_probability or transform.scaling_probability else None
        elif transform.probability > 0:
            transforms.append((name, transform))
            if isinstance(transform, Mirror):
                transform.resolved_axes(len(context.patch_size))  # refuses axes that the patch lacks
    # Without augmentation nothing has changed the outside since the normalisation.
    use_mask = tuple(bool(flag) for flag in use_mask_for_norm) if spatial or transforms else ()
    return Pipeline(context, spatial, tuple(transforms), use_mask)


def plain_pipeline(patch_size: Sequence[int], channels: int) -> Pipeline:
    """Return the pipeline of validation patches: cut out as they lie, -1 turned into background."""
    return Pipeline(Context(channels, tuple(patch_size)))


def _build_transform(name: str, description: Any) -> Any:
    if not isinstance(description, Mapping) or "_target_" not in description:
        hint = difflib.get_close_matches(name, _SETTINGS, n=1)
        remedy = (
            f"Did you mean {hint[0]}?" if hint else "Give it a _target_, such as segplan.augmentation.GaussianNoise."
        )
        raise ConfigError("this is no transform", where=f"augmentation.{name}", remedy=remedy)
    built = _construct(name, description)
    if type(built).__module__.startswith("segplan.augmentation."):
        return built
    return TorchioTransform(built, name)


def _construct(name: str, node: Mapping[str, Any]) -> Any:
    """Import `_target_` and call it with the node's other keys; nested nodes are built first."""
    path = str(node["_target_"])
    module, _, attribute = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"nothing can be imported as {path} ({error})",
            where=f"augmentation.{name}",
            remedy="Check the spelling of _target_.",
        ) from error
    arguments = {key: _plain(name, value) for key, value in node.items() if key != "_target_"}
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(target).parameters)
        raise ConfigError(f"{path}: {error}", where=f"augmentation.{name}", remedy=f"Known keys: {known}.") from error
    return target(**arguments)


def _plain(name: str, value: Any) -> Any:
    """Turn configuration containers into dicts and tuples."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _construct(name, value)
        return {key: _plain(name, inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(_plain(name, inner) for inner in value)
    return value
