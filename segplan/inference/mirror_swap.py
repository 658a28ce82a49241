"""Left and right structures under mirroring: which channels of the network change places with the sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segplan.dataset import Labels
from segplan.errors import ConfigError

_WHERE = "augmentation.mirror.swap_labels"


@dataclass(frozen=True)
class MirrorSwap:
    """What is exchanged when an image is mirrored along one axis.

    Args:
        axis: network axis from left to right.
        heads: for each logit channel, which one takes its place.
        inputs: likewise for the last input channels, a cascade's previous segmentation; empty otherwise.
    """

    axis: int
    heads: tuple[int, ...]
    inputs: tuple[int, ...] = ()


def mirror_swap(recorded: Mapping[str, Any] | None, labels: Labels, is_cascade: bool = False) -> MirrorSwap | None:
    """Return the exchange that a model folder or a training records.

    Args:
        recorded: "axis" and "labels", pairs of label values; None for no exchange.
        labels: what the network's channels stand for.
        is_cascade: the last input channels are one mask for each foreground label.

    Raises:
        ConfigError: a label does not exist, or a region has no counterpart.
    """
    if recorded is None:
        return None
    partner = _partners(recorded["labels"], labels)
    if labels.has_regions:
        sets = [frozenset(value if isinstance(value, tuple) else (value,)) for value in labels.foreground_regions]
    else:
        sets = [frozenset((label,)) for label in labels.all_labels]
    heads = []
    for members in sets:
        mirrored = frozenset(partner.get(label, label) for label in members)
        if mirrored not in sets:
            raise ConfigError(
                f"the region {sorted(members)} becomes {sorted(mirrored)}, which is no region",
                where=_WHERE,
                remedy="Declare that region too, or leave out the left-right axis of augmentation.mirror.axes.",
            )
        heads.append(sets.index(mirrored))
    foreground = list(labels.foreground_labels)
    inputs = tuple(foreground.index(partner.get(label, label)) for label in foreground) if is_cascade else ()
    return MirrorSwap(int(recorded["axis"]), tuple(heads), inputs)


def _partners(pairs: Sequence[Sequence[int]], labels: Labels) -> dict[int, int]:
    partner: dict[int, int] = {}
    for left, right in pairs:
        for label in (left, right):
            if label not in labels.foreground_labels:
                known = ", ".join(str(value) for value in labels.foreground_labels)
                raise ConfigError(f"there is no label {label}", _WHERE, f"The labels are {known}.")
        partner[left], partner[right] = right, left
    return partner
