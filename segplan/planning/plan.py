"""What planning decides: one `ConfigurationPlan` per configuration, and what they share in a `DatasetPlan`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segplan.planning.configured import PatchStep
from segplan.planning.fingerprint import ChannelIntensities

SCHEMA_VERSION = 1
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")


@dataclass(frozen=True)
class ConfigurationPlan:
    """All derived values of one configuration, in the network's axis order, with the reason of each.

    Two-dimensional configurations have two axes (y, x) everywhere but in `spacing`, whose first entry then is None:
    each case keeps its own spacing across slices.
    """

    name: str
    spacing: tuple[float | None, float, float]
    median_shape: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    network: str
    """Option of the configuration group `network`."""
    network_arguments: Mapping[str, Any]
    """Arguments of the network that differ from the group's: strides, kernel_sizes, features, ..."""
    dummy_2d: bool
    batch_dice: bool
    normalization: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    common_slice_spacing: float | None
    """2D: the spacing across slices in mm, if all cases and the 3D configuration have it; None otherwise."""
    previous_stage: str | None
    next_stage: str | None
    parameters: int
    memory_gb: float
    """Memory of a training, estimated in closed form."""
    not_runnable: str | None
    """Why no network can be trained with this plan; None if one can."""
    reasons: Mapping[str, str]
    """Name of a value to the sentence that says from what and by which rule it came."""
    trace: tuple[PatchStep, ...]
    """Candidate patches with their needs, the chosen one last."""
    affordable_batch: int | None = None
    """Batch size that the memory budget holds; None where the planner has no such rule."""
    batch_cap: int | None = None
    """Batch size that covers the allowed share of the dataset; None where the planner has no such rule."""
    measured_gb: float | None = None
    """Memory that a training step was measured to take; None where it was not."""
    warning: str | None = None
    """What to heed before training; None if nothing."""

    @property
    def runnable(self) -> bool:
        """Whether a network can be trained with this plan."""
        return self.not_runnable is None

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Strides of each stage, per axis."""
        return tuple(self.network_arguments["strides"])

    @property
    def kernel_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Kernel sizes of each stage, per axis."""
        always = (3,) * len(self.patch_size)  # STU-Net does not take them as an argument
        return tuple(self.network_arguments.get("kernel_sizes", (always,) * len(self.strides)))

    @property
    def features(self) -> tuple[int, ...]:
        """Features of each stage."""
        return tuple(self.network_arguments["features"])


@dataclass(frozen=True)
class DatasetPlan:
    """The configurations planned for a dataset by one planner, and what they share."""

    dataset: str
    planner: str
    plan_name: str | None
    """Sub-folder of the plan; None for the default planner's."""
    fingerprint_hash: str
    num_cases: int
    channels: tuple[str, ...]
    labels: Mapping[str, Any]
    """As in dataset.json, background and ignore included."""
    has_regions: bool
    """Whether names stand for overlapping regions, each with a sigmoid of its own."""
    regions_class_order: tuple[int, ...] | None
    ignore_label: int | None
    num_classes: int
    intensities: tuple[ChannelIntensities | None, ...]
    """One entry a channel; None if the fingerprint has none."""
    file_ending: str
    label_ending: str
    transpose: tuple[int, int, int]
    configurations: Mapping[str, ConfigurationPlan]
    not_planned: Mapping[str, str]
    """Requested configurations that do not exist for this dataset, and why."""
    label_resampling: str = "votes"
    """How label maps reach the grid: votes, nearest or annotated."""
    planner_settings: Mapping[str, Any] = field(default_factory=dict)
    """The planner's settings that differ from those of its preset."""

    @property
    def group(self) -> str:
        """DATASET or DATASET/NAME: the plan's folder below workspace/plan."""
        return f"{self.dataset}/{self.plan_name}" if self.plan_name else self.dataset
