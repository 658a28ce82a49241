"""Put what the rules say about one configuration into its plan, each value with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from segplan.planning import reasons
from segplan.planning.configured import Configured, Measure, Trial
from segplan.planning.fingerprint import Fingerprint
from segplan.planning.network import network_arguments, planned_network
from segplan.planning.normalization import mask_flags, normalization_schemes
from segplan.planning.plan import ConfigurationPlan
from segplan.planning.repair import why_not_runnable
from segplan.planning.settings import PlannerSettings
from segplan.planning.spacing import Triple, median_resampled_shape, target_spacing, transpose_forward
from segplan.planning.stunet import with_stunet
from segplan.planning.topology import Topology

if TYPE_CHECKING:
    from segplan.dataset import Description


@dataclass(frozen=True)
class Frame:
    """Full resolution: spacing (mm) and median size (voxels) in the network's axis order, and how they came about."""

    transpose: tuple[int, int, int]
    axes: str
    """Names of the axes in the network's order, such as `zyx`."""
    spacing: Triple
    median_shape: Triple
    reason: str
    flat: bool
    """Whether the median image is one slice thick along the first axis: then there is nothing to plan in 3D."""
    repaired: str | None = None
    """Which axes were given a voxel; None if all had one."""

    @classmethod
    def of(cls, fingerprint: Fingerprint, settings: PlannerSettings) -> "Frame":
        """Derive target spacing, axis order and median size of a dataset."""
        target = target_spacing(fingerprint.spacings, fingerprint.shapes_after_crop, settings)
        order = transpose_forward(target.values, settings)
        median = median_resampled_shape(fingerprint.spacings, fingerprint.shapes_after_crop, target.values)
        axes = "".join("zyx"[axis] for axis in order)
        size = _reordered(median, order)
        flat, repaired = size[0] == 1, None
        if settings.repair and (empty := _empty_axes(size, axes)):
            repaired = f"it rounded to 0 voxels along {empty} and keeps one"
            size = size[0] or 1.0, size[1] or 1.0, size[2] or 1.0
        return cls(order, axes, _reordered(target.values, order), size, target.reason, flat, repaired)


@dataclass(frozen=True)
class Inputs:
    """What all configurations of a dataset are planned from."""

    fingerprint: Fingerprint
    description: "Description"
    settings: PlannerSettings
    frame: Frame
    measure: Measure | None = None
    """Measures training steps; None where memory is estimated."""

    def probe(self, topology: Topology, batch_size: int) -> float:
        """Bytes that a training step of the planned network takes on a batch of `topology`'s patches."""
        if self.measure is None:
            raise ValueError("there is nothing to measure with")
        heads = {
            "input_channels": len(self.description.channel_names),
            "num_classes": self.description.labels.num_heads,
        }
        features = self.settings.stage_features(topology.stages, len(topology.patch_size))
        arguments = heads | network_arguments(topology, features, self.settings)
        return self.measure(Trial(self.settings.network, tuple(arguments.items()), topology.patch_size, batch_size))

    @property
    def dataset_voxels(self) -> float:
        """Voxels of the training set at full resolution, for the cap on the batch."""
        z, y, x = self.frame.median_shape
        return z * y * x * self.description.num_training

    @property
    def label_count(self) -> int:
        """Channels of the head in the memory estimate: nnU-Net counts the keys of dataset.json's labels."""
        labels = self.description.labels
        return labels.num_heads if self.settings.count_heads else labels.key_count


def assemble(
    inputs: Inputs,
    name: str,
    configured: Configured,
    *,
    spacing: tuple[float | None, float, float],
    median_shape: Sequence[float],
    batch_dice: bool,
    why: Mapping[str, str],
    common_slice_spacing: float | None = None,
    previous_stage: str | None = None,
    next_stage: str | None = None,
) -> ConfigurationPlan:
    """The plan of configuration `name`.

    Args:
        inputs: what it is planned from.
        name: of the configuration.
        configured: patch, batch and topology.
        spacing: mm, network frame; None across the slices of a 2D configuration.
        median_shape: voxels of the median image, per axis of the patch.
        batch_dice: whether the Dice loss is taken over the batch.
        why: the reasons of `spacing` and `batch_dice`.
        common_slice_spacing: see `ConfigurationPlan`.
        previous_stage: configuration whose segmentation is an input.
        next_stage: configuration that takes this one's segmentation.
    """
    settings, description = inputs.settings, inputs.description
    given = _reasons(inputs, configured, previous_stage) | dict(why)
    configured = with_stunet(configured, inputs.label_count, settings) if settings.network == "stunet" else configured
    patch = configured.topology.patch_size
    schemes, channels = normalization_schemes(description.channel_names), _input_channels(inputs, previous_stage)
    axes, heads = inputs.frame.axes[-len(patch) :], description.labels.num_heads
    trouble = _empty(median_shape, axes) or why_not_runnable(configured, median_shape, settings)
    network = planned_network(configured, channels, heads, settings, None if trouble else inputs.measure)
    return ConfigurationPlan(
        name=name,
        spacing=spacing,
        median_shape=tuple(median_shape),
        patch_size=patch,
        batch_size=configured.batch_size,
        network=settings.network,
        network_arguments=MappingProxyType(_own_channels(channels, previous_stage) | dict(network.arguments)),
        dummy_2d=len(patch) == 3 and max(patch) / patch[0] > settings.slicewise_ratio,
        batch_dice=batch_dice,
        normalization=schemes,
        use_mask_for_norm=mask_flags(schemes, inputs.fingerprint.median_relative_size, settings),
        common_slice_spacing=common_slice_spacing,
        previous_stage=previous_stage,
        next_stage=next_stage,
        parameters=network.parameters,
        memory_gb=network.memory_gb,
        not_runnable=trouble,
        reasons=MappingProxyType(given),
        trace=configured.steps,
        affordable_batch=configured.affordable_batch,
        batch_cap=configured.batch_cap,
        measured_gb=network.measured_gb,
        warning=network.warning,
    )


def _own_channels(channels: int, previous_stage: str | None) -> dict[str, int]:
    return {"input_channels": channels} if previous_stage else {}


def _input_channels(inputs: Inputs, previous_stage: str | None) -> int:
    """Channels of the image and, in a cascade, one for each label without background: the previous segmentation."""
    labels = inputs.description.labels.foreground_labels if previous_stage else ()
    return len(inputs.description.channel_names) + len(labels)


def _reasons(inputs: Inputs, configured: Configured, previous_stage: str | None) -> dict[str, str]:
    topology, settings, channels = configured.topology, inputs.settings, inputs.description.channel_names
    axes, frame = inputs.frame.axes[-len(topology.patch_size) :], inputs.frame
    usual = {
        "transpose": reasons.of_transpose(frame.transpose, not settings.transpose),
        "median_shape": "voxels after resampling, median over cases",
        "normalization": reasons.of_normalization(channels, normalization_schemes(channels)),
        "use_mask_for_norm": reasons.of_mask(inputs.fingerprint.median_relative_size, settings),
        "patch_size": reasons.of_patch(configured, axes, settings),
        "batch_size": reasons.of_batch(configured, settings),
        "strides": reasons.of_strides(topology, axes, settings),
        "kernel_sizes": reasons.of_kernels(topology, axes, settings),
        "features": reasons.of_features(settings, len(axes)),
        "blocks_per_stage": "residual blocks of each encoder stage: the preset's",
        "convs_per_stage": "convolutions of an encoder stage: the planner's",
        "convs_per_stage_decoder": "convolutions of a decoder stage: the planner's",
        "input_channels": f"the image's, and one for each label that {previous_stage} segments",
        "dummy_2d": reasons.of_dummy_2d(topology.patch_size, axes, settings),
    } | dict(configured.reasons)
    if frame.repaired:
        usual["median_shape"] += f"; repaired: {frame.repaired}"
    return usual | (_stunet_reasons(usual, topology, settings) if settings.network == "stunet" else {})


def _stunet_reasons(usual: Mapping[str, str], topology: Topology, settings: PlannerSettings) -> dict[str, str]:
    poolings, planned = len(settings.stunet_features) - 1, topology.stages - 1
    if planned > poolings:
        fitted = f"of the {planned} poolings planned the first {poolings}, as STU-Net has"
    elif planned < poolings:
        fitted = f"the poolings planned, {planned}; STU-Net's stages after them, {poolings - planned}, do not pool"
    else:
        fitted = f"the {planned} poolings planned, as many as STU-Net's"
    return {
        "patch_size": f"the default network's: {usual['patch_size']}",
        "batch_size": f"the default network's: {usual['batch_size']}",
        "strides": fitted,
        "features": "STU-Net's for its size",
        "blocks_per_stage": "STU-Net's residual blocks of each stage, up and down",
    }


def _empty(median_shape: Sequence[float], axes: str) -> str | None:
    empty = _empty_axes(median_shape, axes)
    return f"the median image rounds to 0 voxels along {empty} at this spacing" if empty else None


def _empty_axes(size: Sequence[float], axes: str) -> str:
    return " and ".join(name for name, edge in zip(axes, size, strict=True) if edge == 0)


def _reordered(values: Triple, order: tuple[int, int, int]) -> Triple:
    return values[order[0]], values[order[1]], values[order[2]]
