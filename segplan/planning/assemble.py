"""Put what the rules say about one configuration into its plan, each value with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from segplan.planning import reasons
from segplan.planning.configure import Configured
from segplan.planning.fingerprint import Fingerprint
from segplan.planning.memory import count_parameters, estimate_gigabytes
from segplan.planning.normalization import mask_flags, normalization_schemes
from segplan.planning.plan import ConfigurationPlan
from segplan.planning.settings import PlannerSettings
from segplan.planning.spacing import Triple, median_resampled_shape, target_spacing, transpose_forward

if TYPE_CHECKING:
    from segplan.dataset import Description

_USUAL_CONVS = {
    "plain_unet": {"convs_per_stage": 2, "convs_per_stage_decoder": 2},
    "residual_unet": {"convs_per_stage_decoder": 1},
}


@dataclass(frozen=True)
class Frame:
    """Full resolution: spacing (mm) and median size (voxels) in the network's axis order, and how they came about."""

    transpose: tuple[int, int, int]
    axes: str
    """Names of the axes in the network's order, such as `zyx`."""
    spacing: Triple
    median_shape: Triple
    reason: str

    @classmethod
    def of(cls, fingerprint: Fingerprint, settings: PlannerSettings) -> "Frame":
        """Derive target spacing, axis order and median size of a dataset."""
        target = target_spacing(fingerprint.spacings, fingerprint.shapes_after_crop, settings)
        order = transpose_forward(target.values, settings)
        median = median_resampled_shape(fingerprint.spacings, fingerprint.shapes_after_crop, target.values)
        axes = "".join("zyx"[axis] for axis in order)
        return cls(order, axes, _reordered(target.values, order), _reordered(median, order), target.reason)


@dataclass(frozen=True)
class Inputs:
    """What all configurations of a dataset are planned from."""

    fingerprint: Fingerprint
    description: "Description"
    settings: PlannerSettings
    frame: Frame

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
        median_shape: voxels of the median image, an entry for each axis of the patch.
        batch_dice: whether the Dice loss is taken over the batch.
        why: the reasons of `spacing` and `batch_dice`.
        common_slice_spacing: see `ConfigurationPlan`.
        previous_stage: configuration whose segmentation is an input.
        next_stage: configuration that takes this one's segmentation.
    """
    topology, settings, description = configured.topology, inputs.settings, inputs.description
    axes = len(topology.patch_size)
    schemes = normalization_schemes(description.channel_names)
    arguments = _network_arguments(inputs, configured, previous_stage)
    channels = arguments.get("input_channels", len(description.channel_names))
    heads = description.labels.num_heads
    return ConfigurationPlan(
        name=name,
        spacing=spacing,
        median_shape=tuple(median_shape),
        patch_size=topology.patch_size,
        batch_size=configured.batch_size,
        network=settings.network,
        network_arguments=MappingProxyType(arguments),
        dummy_2d=axes == 3 and max(topology.patch_size) / topology.patch_size[0] > settings.anisotropy_ratio,
        batch_dice=batch_dice,
        normalization=schemes,
        use_mask_for_norm=mask_flags(schemes, inputs.fingerprint.median_relative_size, settings),
        common_slice_spacing=common_slice_spacing,
        previous_stage=previous_stage,
        next_stage=next_stage,
        parameters=count_parameters(channels, heads, topology.strides, topology.kernel_sizes, settings),
        memory_gb=estimate_gigabytes(configured.feature_count, configured.batch_size, axes, settings),
        not_runnable=_not_runnable(inputs, configured, median_shape),
        reasons=MappingProxyType(_reasons(inputs, configured, previous_stage) | dict(why)),
        trace=configured.steps,
    )


def _network_arguments(inputs: Inputs, configured: Configured, previous_stage: str | None) -> dict[str, Any]:
    topology, settings, description = configured.topology, inputs.settings, inputs.description
    arguments: dict[str, Any] = {}
    if previous_stage:
        # The previous segmentation comes one-hot, a channel for each label without background.
        arguments["input_channels"] = len(description.channel_names) + len(description.labels.foreground_labels)
    arguments["strides"] = topology.strides
    arguments["kernel_sizes"] = topology.kernel_sizes
    arguments["features"] = configured.features
    if settings.network == "residual_unet":
        arguments["blocks_per_stage"] = settings.stage_blocks(topology.stages)
    # What the network's group says already need not be repeated.
    for name, usual in _USUAL_CONVS[settings.network].items():
        if getattr(settings, name) != usual:
            arguments[name] = getattr(settings, name)
    return arguments


def _reasons(inputs: Inputs, configured: Configured, previous_stage: str | None) -> dict[str, str]:
    topology, settings, channels = configured.topology, inputs.settings, inputs.description.channel_names
    axes = inputs.frame.axes[-len(topology.patch_size) :]
    return {
        "transpose": reasons.of_transpose(inputs.frame.transpose, not settings.transpose),
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
    }


def _not_runnable(inputs: Inputs, configured: Configured, median_shape: Sequence[float]) -> str | None:
    axes = inputs.frame.axes[-len(median_shape) :]
    empty = [name for name, size in zip(axes, median_shape, strict=True) if size == 0]
    if empty:
        return f"axis {' and '.join(empty)} of the median image rounds to 0 voxels at this spacing"
    if configured.topology.stages > 1:
        return None
    edge = inputs.settings.min_bottleneck_edge
    return (
        f"the median image, {reasons.times(median_shape)}, is too small to be halved once "
        f"(an axis needs {2 * edge} voxels, a lone one {3 * edge}), and a U-Net needs two resolutions"
    )


def _reordered(values: Triple, order: tuple[int, int, int]) -> Triple:
    return values[order[0]], values[order[1]], values[order[2]]
