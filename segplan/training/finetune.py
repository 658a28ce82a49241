"""Start training from the weights of another model: what is copied, what is adapted, and what starts anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from segplan.errors import ConfigError, ModelError
from segplan.networks.parts import INPUT_LAYERS, PARTS, part_of

SCALE_KEY = "lr_scale"
"""Key of an optimiser's parameter group: the factor on the learning rate."""


@dataclass(frozen=True)
class Fate:
    """What became of one parameter.

    Args:
        name: the parameter's.
        part: of the network, or `source` for a weight that the network does not have.
        action: copied, adapted, new (initial weights are kept) or unused.
        reason: why, where it was not copied.
        size: number of values.
    """

    name: str
    part: str
    action: str
    reason: str
    size: int


def transfer(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    heads: str = "new",
    channels: str = "divide",
    strict: bool = True,
) -> list[Fate]:
    """Copy `weights` into `network`; returns what became of each.

    Args:
        network: its initial weights stay where nothing is copied.
        weights: the source's, by segplan's names.
        heads: "new": they stay at their initial weights, as in nnU-Net and STU-Net; "copy": also they are copied,
            those of another number of classes excepted.
        channels: how the first layer takes another number of channels than the source's: "divide": its weights, summed
            over the source's channels, are shared among the target's; "repeat": a one-channel layer is repeated
            without dividing, as the authors of STU-Net do, which makes the signal that many times stronger.
        strict: refuse a source that lacks a weight or has one of another shape; else it starts anew.

    Raises:
        ModelError: what `strict` says, or nothing at all could be copied.
        ConfigError: "repeat" with a source of several channels.
    """
    fates, loaded = [], {}
    for name, target in network.state_dict().items():
        value, action, reason = _choose(name, target, weights.get(name), heads, channels)
        if value is not None:
            loaded[name] = value.to(target.dtype)
        fates.append(Fate(name, part_of(name), action, reason, target.numel()))
    unfit = [fate for fate in fates if fate.action == "new" and fate.part != "heads"]
    if not loaded:
        raise ModelError("none of its weights fits the network", _WHERE, _ADOPT)
    if strict and unfit:
        raise _unfit(unfit, len(fates))
    network.load_state_dict(loaded, strict=False)
    known = {fate.name for fate in fates}
    reason = "the network has no such weight"
    return [
        *fates,
        *(Fate(name, "source", "unused", reason, weights[name].numel()) for name in weights if name not in known),
    ]


def summary_rows(fates: Sequence[Fate]) -> list[list[str]]:
    """Rows for a table: part, action, number of tensors, of values, and why; alike ones in one row."""
    groups: dict[tuple[str, str, str], list[Fate]] = {}
    for fate in fates:
        groups.setdefault((fate.part, fate.action, fate.reason), []).append(fate)
    return [
        [part, action, str(len(members)), f"{sum(fate.size for fate in members):,}", reason]
        for (part, action, reason), members in groups.items()
    ]


def parameter_groups(network: nn.Module, scales: Mapping[str, float]) -> list[dict[str, Any]] | list[nn.Parameter]:
    """The network's parameters for an optimiser, in a group for each factor on the learning rate.

    Args:
        network: whose parameters.
        scales: factor on the rate of each part; 1 for a part that is left out.

    Returns:
        All parameters in order where all factors are 1.
    """
    grouped: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        grouped.setdefault(float(scales.get(part_of(name), 1.0)), []).append(parameter)
    if set(grouped) == {1.0}:
        return grouped[1.0]
    return [{"params": parameters, SCALE_KEY: scale} for scale, parameters in grouped.items()]


def matching(network: nn.Module, chosen: Sequence[str]) -> list[str]:
    """The names of the parameters in `chosen`: parts of the network, or name patterns with `*`.

    Raises:
        ConfigError: an entry names no parameter, or all together name every parameter.
    """
    names = [name for name, _ in network.named_parameters()]
    found: dict[str, None] = {}
    for entry in chosen:
        hits = [name for name in names if part_of(name) == entry or fnmatchcase(name, entry)]
        if not hits:
            remedy = f"Name a part ({', '.join(PARTS)}) or a pattern such as {names[0].rpartition('.')[0]}.*"
            raise ConfigError(f"no weight is named {entry}", "finetune.freeze", remedy)
        found |= dict.fromkeys(hits)
    if len(found) == len(names):
        raise ConfigError("leaves nothing to train", "finetune.freeze", "Leave a part out.")
    return list(found)


def _choose(
    name: str, target: Tensor, source: Tensor | None, heads: str, channels: str
) -> tuple[Tensor | None, str, str]:
    """The value to load, if any; what is done, and why."""
    is_head = part_of(name) == "heads"
    if is_head and heads == "new":
        return None, "new", "heads depend on the labels"
    if source is None:
        return None, "new", "the source has no such weight"
    if source.shape == target.shape:
        return source, "copied", ""
    if name in INPUT_LAYERS and _differ_in_channels(source, target):
        old, new = source.shape[1], target.shape[1]
        return _rechannelled(source, new, channels), "adapted", f"input channels {old} → {new}: {_HOW[channels]}"
    if is_head:
        return None, "new", f"classes {source.shape[0]} → {target.shape[0]}"
    return None, "new", f"shape {_times(source)} → {_times(target)}"


_WHERE = "finetune.checkpoint"
_ADOPT = "Plan with planner.adopt=MODEL, so that the network is the source's up to its heads."
_HOW = {"divide": "summed and shared among them", "repeat": "repeated"}


def _differ_in_channels(source: Tensor, target: Tensor) -> bool:
    return source.ndim == target.ndim and (source.shape[0], *source.shape[2:]) == (target.shape[0], *target.shape[2:])


def _rechannelled(weight: Tensor, channels: int, how: str) -> Tensor:
    """A first layer's weight (C_out, C_in, *kernel) for another number of input channels."""
    if how == "repeat" and weight.shape[1] != 1:
        what = f"repeats the weights of one channel, and the source has {weight.shape[1]}"
        raise ConfigError(what, "finetune.channels=repeat", "Use divide.")
    total = weight.sum(dim=1, keepdim=True)
    return torch.cat([total] * channels, dim=1) / (channels if how == "divide" else 1)


def _times(tensor: Tensor) -> str:
    return "×".join(str(size) for size in tensor.shape)


def _unfit(unfit: Sequence[Fate], total: int) -> ModelError:
    what = f"{len(unfit)} of {total} weights do not fit the network ({unfit[0].name}: {unfit[0].reason})"
    return ModelError(what, _WHERE, f"{_ADOPT} Or use finetune.strict=false: what does not fit then starts anew.")
