"""What the rules say about one configuration: patch, batch and topology, and how they came about."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from segplan.planning.topology import Topology


@dataclass(frozen=True)
class Resolution:
    """A resolution at which a network is planned, and what of the dataset decides its patch and batch there."""

    spacing: Sequence[float]
    """mm per axis, 2 or 3 axes, network frame."""
    median_shape: Sequence[float]
    """Voxels per axis of the median image at that spacing; may be fractional."""
    dataset_voxels: float
    """Voxels of the whole dataset, for the cap on the batch."""
    label_count: int
    """Channels of the head counted in the memory estimate."""

    @property
    def axes(self) -> int:
        """2 or 3."""
        return len(self.spacing)


@dataclass(frozen=True)
class Trial:
    """A training step to be measured: which network on which batch. Hashable, so that none is measured twice."""

    network: str
    """Option of the configuration group `network`."""
    arguments: tuple[tuple[str, Any], ...]
    """Names and values of the network's arguments; lists are tuples."""
    patch_size: tuple[int, ...]
    batch_size: int


Measure = Callable[[Trial], float]
"""Bytes that a training step takes at its peak; infinity where it does not fit."""
Probe = Callable[[Topology, int], float]
"""The same for a topology and a batch size, of the network that is being planned."""


@dataclass(frozen=True)
class PatchStep:
    """One candidate on the way to the patch: its size, what it needs, and the axis that was shortened for it.

    `features` is comparable with the budget: of the batch that must fit, scaled to the reference batch size.
    `measured_bytes` is what a training step took with that batch; None where it was not measured.
    """

    patch_size: tuple[int, ...]
    features: float
    shortened_axis: int | None
    measured_bytes: float | None = None


@dataclass(frozen=True)
class Configured:
    """What the rules say about one configuration, and how they came to it."""

    topology: Topology
    features: tuple[int, ...]
    batch_size: int
    feature_count: int
    """Feature-map elements of one sample."""
    steps: tuple[PatchStep, ...]
    """Candidate patches, the chosen one last."""
    affordable_batch: int
    """Batch size that the memory budget holds."""
    batch_cap: int
    """Batch size that covers the allowed share of the dataset."""
    repaired: str | None = None
    """What was mended so that the network can run; None if nothing."""
    reasons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Sentences that take the place of the usual ones, by the name of the value."""
