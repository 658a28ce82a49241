"""Take over a model's patch, spacing, normalisation and network, so that its weights can be fine-tuned on a dataset."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from segplan.errors import ConfigError, ModelError
from segplan.model_folder import ModelFolder
from segplan.planning.configured import Configured, PatchStep
from segplan.planning.fingerprint import ChannelIntensities
from segplan.planning.memory import count_features
from segplan.planning.network import planned_network
from segplan.planning.plan import ConfigurationPlan, DatasetPlan
from segplan.planning.settings import Network, PlannerSettings
from segplan.planning.stunet import count_stunet_features
from segplan.planning.topology import Topology

_NETWORKS: Mapping[str, Network] = {"PlainUNet": "plain_unet", "ResidualUNet": "residual_unet", "STUNet": "stunet"}
_NOT_ADOPTED = frozenset({"name", "input_channels", "num_classes", "deep_supervision", "activation_checkpointing"})
_WHERE = "planner.adopt"


def adopt(plan: DatasetPlan, settings: PlannerSettings) -> DatasetPlan:
    """`plan` with the values of the model folder `settings.adopt`, for the configuration that it is of.

    Patch, spacing, axis order and network are the model's; so is the normalisation where it has as many channels as
    the dataset, or one. Labels, folds and batch follow from the dataset.

    Raises:
        ModelError: there is no such model, or its network is none of segplan's.
        ConfigError: no configuration of as many axes was planned.
    """
    source = ModelFolder.open(str(settings.adopt))
    _check(source)
    name = "2d" if len(source.patch_size) == 2 else "3d_fullres"
    if name not in plan.configurations:
        why = plan.not_planned.get(name, "was not asked for")
        raise ConfigError(f"the model is for {name}, which {why}", _WHERE, f"Plan configurations=[{name}].")
    own = plan.configurations[name]
    schemes, masks, intensities = _normalization(plan, own, source)
    order = source.plan["transpose"]
    left = {other: f"is not planned: {source.name} is for {name}" for other in plan.configurations if other != name}
    return replace(
        plan,
        transpose=(int(order[0]), int(order[1]), int(order[2])),
        intensities=intensities,
        configurations=MappingProxyType({name: _configuration(plan, own, source, settings, (schemes, masks))}),
        not_planned=MappingProxyType({**plan.not_planned, **left}),
    )


def _check(source: ModelFolder) -> None:
    name = str(source.network.get("name"))
    if name not in _NETWORKS:
        remedy = "Name a model of segplan's networks; write a plan file of your own for another."
        raise ModelError(f"its network {name} is none of segplan's", source.path, remedy)
    if source.plan.get("previous_stage"):
        raise ModelError("is the second stage of a cascade", source.path, "Adopt a single-stage model.")


def _normalization(
    plan: DatasetPlan, own: ConfigurationPlan, source: ModelFolder
) -> tuple[tuple[str, ...], tuple[bool, ...], tuple[ChannelIntensities | None, ...]]:
    """Schemes, masks and intensities, an entry a channel."""
    schemes, channels = list(source.plan["normalization"]), len(plan.channels)
    if len(schemes) not in (1, channels):
        return own.normalization, own.use_mask_for_norm, plan.intensities
    repeat = channels if len(schemes) == 1 else 1
    known = [_intensities(entry) for entry in source.plan["intensities"]] * repeat
    masks = [bool(flag) for flag in source.plan["use_mask_for_norm"]] * repeat
    kept = [mine if entry is None else entry for entry, mine in zip(known, plan.intensities, strict=True)]
    return tuple(map(str, schemes)) * repeat, tuple(masks), tuple(kept)


def _intensities(known: Mapping[str, Any] | None) -> ChannelIntensities | None:
    """Statistics that the source lacks are the ones it has in their place: nothing but the scheme ct reads any."""
    if known is None:
        return None
    mean, low, high = float(known["mean"]), float(known["percentile_00_5"]), float(known["percentile_99_5"])
    return ChannelIntensities(
        mean=mean,
        median=float(known.get("median", mean)),
        std=float(known["std"]),
        min=float(known.get("min", low)),
        max=float(known.get("max", high)),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _configuration(
    plan: DatasetPlan,
    own: ConfigurationPlan,
    source: ModelFolder,
    settings: PlannerSettings,
    normalization: tuple[tuple[str, ...], tuple[bool, ...]],
) -> ConfigurationPlan:
    arguments = {key: _frozen(value) for key, value in source.network.items() if key not in _NOT_ADOPTED}
    sized = _sized(settings, source, arguments)
    configured = _configured(own, source, arguments, sized)
    network = planned_network(configured, len(plan.channels), plan.num_classes, sized, None)
    spacing, patch = source.plan["spacing"], source.patch_size
    adopted = f"adopted from {source.name}"
    names = ("spacing", "patch_size", "normalization", "use_mask_for_norm", "transpose", *arguments)
    return replace(
        own,
        spacing=(None if spacing[0] is None else float(spacing[0]), float(spacing[1]), float(spacing[2])),
        median_shape=_median_shape(plan, own, source),
        patch_size=patch,
        batch_size=configured.batch_size,
        network=_NETWORKS[source.network["name"]],
        network_arguments=MappingProxyType(arguments),
        dummy_2d=len(patch) == 3 and max(patch) / patch[0] > settings.slicewise_ratio,
        normalization=normalization[0],
        use_mask_for_norm=normalization[1],
        common_slice_spacing=None,
        next_stage=None,
        parameters=network.parameters,
        memory_gb=network.memory_gb,
        not_runnable=None,
        reasons=MappingProxyType(
            {**own.reasons, **dict.fromkeys(names, adopted), "batch_size": "the planned voxels a batch, at this patch"}
        ),
        trace=configured.steps,
        affordable_batch=None,
        batch_cap=None,
        measured_gb=None,
        warning=network.warning,
    )


def _sized(settings: PlannerSettings, source: ModelFolder, arguments: Mapping[str, Any]) -> PlannerSettings:
    """Settings that describe the model's network, for counting what it needs."""
    features, blocks = arguments["features"], arguments.get("blocks_per_stage", ())
    network = _NETWORKS[source.network["name"]]
    if network == "stunet":
        wide, deep = float(arguments.get("width", 1)), float(arguments.get("depth", 1))
        return replace(
            settings,
            network=network,
            stunet_features=tuple(round(count * wide) for count in features),
            stunet_blocks_per_stage=tuple(round(count * deep) for count in blocks),
        )
    most = max(features)
    sized = replace(settings, network=network, base_features=features[0], max_features_2d=most, max_features_3d=most)
    sized = replace(sized, convs_per_stage_decoder=int(arguments.get("convs_per_stage_decoder", 2)))
    if network == "residual_unet":
        return replace(sized, blocks_per_stage=blocks)
    return replace(sized, convs_per_stage=int(arguments.get("convs_per_stage", 2)))


def _configured(
    own: ConfigurationPlan, source: ModelFolder, arguments: Mapping[str, Any], sized: PlannerSettings
) -> Configured:
    patch, strides = source.patch_size, arguments["strides"]
    kernels = arguments.get("kernel_sizes", ((3,) * len(patch),) * len(strides))
    divisor = tuple(math.prod(stride[axis] for stride in strides) for axis in range(len(patch)))
    count = count_stunet_features if sized.network == "stunet" else count_features
    features = count(patch, strides, source.plan.get("num_classes", 2), sized)
    batch = own.batch_size * math.prod(own.patch_size) // math.prod(patch)
    return Configured(
        topology=Topology(patch, strides, kernels, divisor),
        features=arguments["features"],
        batch_size=min(own.batch_size, max(sized.min_batch_size, batch)),
        feature_count=features,
        steps=(PatchStep(patch, features, None),),
        affordable_batch=own.batch_size,
        batch_cap=own.batch_size,
    )


def _median_shape(plan: DatasetPlan, own: ConfigurationPlan, source: ModelFolder) -> tuple[float, ...]:
    """The median image at the model's spacing and axis order; as it was for a 2D model that slices another axis."""
    skipped = 3 - len(own.median_shape)
    planned = zip(plan.transpose[skipped:], own.median_shape, own.spacing[skipped:], strict=True)
    extents = {axis: size * (step or 1.0) for axis, size, step in planned}
    axes = list(zip(source.plan["transpose"], source.plan["spacing"], strict=True))[skipped:]
    if any(axis not in extents for axis, _ in axes):
        return own.median_shape
    return tuple(float(max(1, round(extents[axis] / step))) for axis, step in axes)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
