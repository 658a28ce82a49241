"""From a configuration node to a pipeline."""

import dataclasses
import difflib
import importlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from segplan.augmentation.cascade import CascadeMorphology, CascadeRemoveComponent
from segplan.augmentation.mirror import Mirror
from segplan.augmentation.one_of import OneOf
from segplan.augmentation.pipeline import Pipeline
from segplan.augmentation.spatial import Spatial
from segplan.augmentation.torchio_bridge import TorchioTransform
from segplan.augmentation.transform import Context
from segplan.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "accelerator")
"""Where patches are augmented: in the loader's workers (cpu), or in batches where the network computes."""

_log = logging.getLogger(__name__)

_SETTINGS = ("device", "dummy_2d")
# Prediction mirrors as training does, the patch is cut once, and cascades have two stages: each must be seen here.
_ALONE = (Spatial, Mirror, CascadeMorphology, CascadeRemoveComponent)


def build_pipeline(
    node: Mapping[str, Any],
    patch_size: Sequence[int],
    use_mask_for_norm: Sequence[bool],
    *,
    label_values: Sequence[int] | None = None,
    previous_labels: Sequence[int] = (),
    ignore_label: int | None = None,
) -> Pipeline:
    """Build the training pipeline that an `augmentation` node describes.

    Args:
        node: `device`, `dummy_2d`, and in order named transforms, each a mapping with `_target_` and its numbers.
            A null transform, or one whose probability is 0, is off. `spatial`, which cuts the patch, comes first.
        patch_size: network patch, 2 or 3 entries.
        use_mask_for_norm: per image channel, whether it was normalised within the nonzero mask.
        label_values: the label files' values, if the pipeline's label maps hold their indices in this list instead;
            the node always names the files' values.
        previous_labels: foreground labels of the previous stage's segmentation, which the pipeline then expects as
            channel 1 of the labels; empty outside cascades.
        ignore_label: the label that unannotated voxels bear in the pipeline's label maps, if any do.

    Raises:
        ConfigError: a key, value or transform that cannot work, or an order that cannot.
    """
    context = _context(node, patch_size, len(use_mask_for_norm), previous_labels, ignore_label)
    spatial: Spatial | None = None
    transforms: list[tuple[str, Any]] = []
    for name, description in node.items():
        if name in _SETTINGS or description is None:
            continue
        transform = _build_transform(name, description)
        if isinstance(transform, CascadeMorphology | CascadeRemoveComponent) and not context.previous_labels:
            continue
        if isinstance(transform, Spatial):
            if spatial is not None or transforms:
                raise ConfigError(
                    "rotation and scaling cut the patch, so they come first and once",
                    where=f"augmentation: {name}",
                    remedy="List it before the others.",
                )
            spatial = transform if transform.rotation_probability or transform.scaling_probability else None
        elif transform.probability > 0:
            if isinstance(transform, TorchioTransform) and len(patch_size) == 2 and transform.is_for_volumes:
                _log.warning("augmentation.%s is left out: torchio moves 2D patches away from their labels", name)
                continue
            if isinstance(transform, Mirror):
                transform = _with_indices(transform, label_values)
                transform.resolved_axes(len(context.patch_size))  # refuses axes that the patch lacks
                transform.resolved_swap_axis(len(context.patch_size))
            transforms.append((name, transform))
    # Without augmentation nothing has changed the outside since the normalisation.
    use_mask = tuple(bool(flag) for flag in use_mask_for_norm) if spatial or transforms else ()
    return Pipeline(context, spatial, tuple(transforms), use_mask)


def _context(
    node: Mapping[str, Any],
    patch_size: Sequence[int],
    channels: int,
    previous_labels: Sequence[int],
    ignore_label: int | None,
) -> Context:
    """Check the node's settings, and gather what transforms are told."""
    if node.get("device", "cpu") not in DEVICES:
        raise ConfigError(
            f"{node['device']!r} is no device",
            where="augmentation.device",
            remedy=f"Use {', '.join(DEVICES[:-1])} or {DEVICES[-1]}.",
        )
    dummy_2d = node.get("dummy_2d", False)
    if not isinstance(dummy_2d, bool):
        raise ConfigError(f"{dummy_2d!r} is neither true nor false", "augmentation.dummy_2d", "Use true or false.")
    if dummy_2d and len(patch_size) != 3:
        raise ConfigError("a 2D patch has no thick axis", where="augmentation.dummy_2d", remedy="Set it to false.")
    return Context(channels, tuple(patch_size), dummy_2d, tuple(previous_labels), ignore_label)


def plain_pipeline(patch_size: Sequence[int], channels: int, previous_labels: Sequence[int] = ()) -> Pipeline:
    """Return the pipeline of validation patches: cut out as they lie, -1 turned into background."""
    return Pipeline(Context(channels, tuple(patch_size), previous_labels=tuple(previous_labels)))


def _with_indices(mirror: Mirror, label_values: Sequence[int] | None) -> Mirror:
    """Turn the label values of `swap_labels` into those that stand in the label maps."""
    if label_values is None or not mirror.swap_labels:
        return mirror
    values = list(label_values)
    unknown = [label for pair in mirror.swap_labels for label in pair if label not in values]
    if unknown:
        raise ConfigError(
            f"there is no label {unknown[0]}",
            where="augmentation.mirror.swap_labels",
            remedy=f"The labels are {', '.join(str(value) for value in values if value)}.",
        )
    pairs = tuple((values.index(left), values.index(right)) for left, right in mirror.swap_labels)
    return dataclasses.replace(mirror, swap_labels=pairs)


def _build_transform(name: str, description: Any) -> Any:
    if not isinstance(description, Mapping) or "_target_" not in description:
        hint = difflib.get_close_matches(name, _SETTINGS, n=1)
        remedy = (
            f"Did you mean {hint[0]}?" if hint else "Give it a _target_, such as segplan.augmentation.GaussianNoise."
        )
        raise ConfigError("this is no transform", where=f"augmentation.{name}", remedy=remedy)
    return _as_transform(name, _construct(name, description))


def _as_transform(name: str, built: Any) -> Any:
    """Return what `_target_` made as a transform; the alternatives of `OneOf` too, without those that are null."""
    if isinstance(built, OneOf):
        members = {
            key: _as_transform(f"{name}.transforms.{key}", member)
            for key, member in built.transforms.items()
            if member is not None
        }
        for key, member in members.items():
            if isinstance(member, _ALONE):
                raise ConfigError(
                    f"{type(member).__name__} cannot be one of several",
                    where=f"augmentation.{name}.transforms.{key}",
                    remedy="List it by itself.",
                )
        return dataclasses.replace(built, transforms=members)
    if isinstance(built, Spatial) or all(hasattr(built, part) for part in ("probability", "sample", "apply")):
        return built
    return TorchioTransform(built, name)


def _construct(name: str, node: Mapping[str, Any]) -> Any:
    """Import `_target_` and call it with the node's other keys; nested nodes are built first."""
    path = str(node["_target_"])
    module, _, attribute = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
        signature = inspect.signature(target)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"nothing can be imported as {path} ({error})",
            where=f"augmentation.{name}",
            remedy="Check the spelling of _target_.",
        ) from error
    arguments = {key: _plain(name, value) for key, value in node.items() if key != "_target_"}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise ConfigError(f"{path}: {error}", where=f"augmentation.{name}", remedy=f"Known keys: {known}.") from error
    for key, value in arguments.items():
        if key in signature.parameters:
            _check_type(f"augmentation.{name}.{key}", value, signature.parameters[key].annotation)
    try:
        return target(**arguments)
    except (TypeError, ValueError) as error:
        what = f"{path} refuses a value ({error})"
        raise ConfigError(what, f"augmentation.{name}", "See what its documentation allows.") from error


def _check_type(where: str, value: Any, wanted: Any) -> None:
    """Refuse "no" for false, which Python takes for true, and fractions where whole numbers are drawn."""
    if wanted is bool and not isinstance(value, bool):
        raise ConfigError(f"{value!r} is neither true nor false", where, "Use true or false.")
    numbers = value if isinstance(value, tuple) else (value,)
    if wanted in (int, tuple[int, int]) and any(type(number) is not int for number in numbers):
        raise ConfigError(f"{value!r} is not whole", where, "Use whole numbers.")


def _plain(name: str, value: Any) -> Any:
    """Turn configuration containers into dicts and tuples."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _construct(name, value)
        return {key: _plain(name, inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(_plain(name, inner) for inner in value)
    return value
