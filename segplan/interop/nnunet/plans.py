"""Translate nnU-Net v2's plans.json and dataset.json into a plan node, a patch and a network."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segplan.dataset import Labels
from segplan.errors import ModelError, PlanError, SegplanError
from segplan.preprocessing.plan_node import preprocessing_of

_NORMALIZATION = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
RESAMPLING = "resample_data_or_seg_to_shape"
# What every plan of nnU-Net's own says, and what segplan computes.
RESAMPLING_ARGUMENTS = {
    "data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
_NETWORKS = {"PlainConvUNet": "PlainUNet", "ResidualEncoderUNet": "ResidualUNet"}
_FIXED_ARCHITECTURE: dict[str, Sequence[Any]] = {
    "conv_bias": (True,),
    "norm_op": ("torch.nn.modules.instancenorm.InstanceNorm3d", "torch.nn.modules.instancenorm.InstanceNorm2d"),
    "norm_op_kwargs": ({"eps": 1e-5, "affine": True},),
    "dropout_op": (None,),
    "nonlin": ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"),
    "nonlin_kwargs": ({"inplace": True}, {}, None, {"inplace": True, "negative_slope": 0.01}),
    "nonlin_first": (False,),
}
_OTHER_KEYS = frozenset(
    {
        "n_stages",
        "features_per_stage",
        "conv_op",
        "kernel_sizes",
        "strides",
        "n_conv_per_stage",
        "n_blocks_per_stage",
        "n_conv_per_stage_decoder",
        "dropout_op_kwargs",
        "deep_supervision",
        "input_channels",
        "num_classes",
    }
)


@dataclass(frozen=True)
class SourceConfiguration:
    """A configuration of nnU-Net's, in segplan's terms.

    Args:
        name: its name, e.g. 3d_fullres.
        dataset: the dataset's name.
        plan: the plan node of a model folder.
        patch_size: voxels per network axis.
        network: name of the class in `segplan.networks` and its arguments.
        previous_stage: configuration whose segmentation is an input, or None.
    """

    name: str
    dataset: str
    plan: Mapping[str, Any]
    patch_size: tuple[int, ...]
    network: Mapping[str, Any]
    previous_stage: str | None


def read_configuration(folder: Path, name: str) -> SourceConfiguration:
    """Read configuration `name` from plans.json and dataset.json in `folder`.

    Raises:
        ModelError: a file is missing or damaged, there is no such configuration, or it asks for what segplan lacks.
    """
    plans, dataset = _read(folder / "plans.json"), _read(folder / "dataset.json")
    try:
        own = resolve(plans["configurations"], name)
        labels = Labels.from_json(dataset)
        previous = own.get("previous_stage")
        extra = len(labels.foreground_labels) if previous else 0
        _check_resampling(own, folder / "plans.json")
        _check_classes(plans, own, folder / "plans.json")
        described = SourceConfiguration(
            name=name,
            dataset=str(plans["dataset_name"]),
            plan=_plan_node(plans, dataset, own, name, labels),
            patch_size=tuple(int(size) for size in own["patch_size"]),
            network=_network(own, len(_channels(dataset)) + extra, labels.num_heads, folder / "plans.json"),
            previous_stage=None if previous is None else str(previous),
        )
        _check_numbers(described, folder / "plans.json")
        return described
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it is no plan of nnU-Net v2, or dataset.json beside it does not fit ({error!r})"
        raise ModelError(what, folder / "plans.json", "Copy both again from the trained model's folder.") from error
    except SegplanError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(error.what, folder / "dataset.json", error.remedy or "") from error


def resolve(configurations: Mapping[str, Any], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration with what it inherits from others.

    Raises:
        ModelError: it does not exist, or inherits from itself.
    """
    if name not in configurations:
        raise ModelError(
            f"there is no configuration {name}", "plans.json", f"There are {', '.join(sorted(configurations))}."
        )
    if name in seen:
        raise ModelError(f"configuration {name} inherits from itself", "plans.json", "Mend its inherits_from.")
    own = dict(configurations[name])
    parent = own.get("inherits_from")
    return own if parent is None else {**resolve(configurations, str(parent), (*seen, name)), **own}


def _plan_node(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], own: Mapping[str, Any], name: str, labels: Labels
) -> dict[str, Any]:
    channels = _channels(dataset)
    spacing = [float(value) for value in own["spacing"]]
    known = plans.get("foreground_intensity_properties_per_channel")
    known = plans.get("foreground_intensity_properties_by_modality", {}) if known is None else known
    schemes = [_normalization(scheme) for scheme in own["normalization_schemes"]]
    order = dataset.get("regions_class_order")
    node = {
        "dataset": plans["dataset_name"],
        "configuration": name,
        "channels": channels,
        "labels": dict(dataset["labels"]),
        "regions_class_order": None if order is None else [int(label) for label in order],
        "ignore_label": labels.ignore,
        "file_ending": dataset["file_ending"],
        "label_ending": dataset["file_ending"],
        "input_channels": len(channels),
        "num_classes": labels.num_heads,
        "spacing": [None, *spacing] if len(spacing) == 2 else spacing,
        "transpose": [int(axis) for axis in plans["transpose_forward"]],
        "normalization": schemes,
        "use_mask_for_norm": [bool(flag) for flag in own["use_mask_for_norm"]],
        "intensities": [known.get(str(number)) for number in range(len(channels))],
        "imported_from": f"nnU-Net v2, {plans.get('plans_name', 'unknown plans')}",
    }
    if own.get("previous_stage"):
        node["previous_stage"] = str(own["previous_stage"])
    return node


def _channels(dataset: Mapping[str, Any]) -> list[str]:
    names: Mapping[str, str] = dataset.get("channel_names") or dataset["modality"]
    return [str(names[number]) for number in sorted(names, key=int)]


def _normalization(scheme: str) -> str:
    if scheme not in _NORMALIZATION:
        known = ", ".join(_NORMALIZATION)
        raise ModelError(f"segplan has no {scheme}", "plans.json, normalization_schemes", f"It reads {known}.")
    return _NORMALIZATION[scheme]


def _check_resampling(own: Mapping[str, Any], path: Path) -> None:
    for kind, expected in RESAMPLING_ARGUMENTS.items():
        function = own.get(f"resampling_fn_{kind}", RESAMPLING)
        arguments = own.get(f"resampling_fn_{kind}_kwargs", expected)
        if function != RESAMPLING or {**expected, **arguments} != expected:
            what = f"it resamples {kind} by {function} {json.dumps(arguments)}, which segplan does not do"
            raise ModelError(what, path, "Only models with nnU-Net's own resampling can be imported.")


def _check_classes(plans: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> None:
    usual = {"preprocessor_name": (own, "DefaultPreprocessor"), "label_manager": (plans, "LabelManager")}
    for key, (where, expected) in usual.items():
        if where.get(key, expected) != expected:
            what = f"its {key} is {where[key]}, which segplan does not have"
            raise ModelError(what, path, "Only models with nnU-Net's own preprocessing and labels can be imported.")


def _check_numbers(described: SourceConfiguration, path: Path) -> None:
    """Plans are edited by hand: refuse what would be found out at the first prediction, or never."""
    plan, patch = described.plan, described.patch_size
    try:
        preprocessing_of(plan)
    except PlanError as error:
        raise ModelError(error.what, path, "Mend the plan.") from error
    spacing = [value for value in plan["spacing"] if value is not None]
    problems = {
        f"its spacing is {spacing}": len(spacing) != len(patch)
        or not all(math.isfinite(value) and value > 0 for value in spacing),
        f"it has {len(plan['normalization'])} normalization_schemes for {plan['input_channels']} channels": len(
            plan["normalization"]
        )
        != plan["input_channels"],
    }
    for axis, size in enumerate(patch):
        total = math.prod(strides[axis] for strides in described.network["strides"])
        problems[f"its patch_size {list(patch)} cannot be divided by {total} along axis {axis}"] = bool(size % total)
    for what, wrong in problems.items():
        if wrong:
            raise ModelError(what, path, "Mend the plan, or copy it again from the trained model's folder.")


def _network(own: Mapping[str, Any], input_channels: int, num_classes: int, path: Path) -> dict[str, Any]:
    kind, arguments = _architecture(own)
    if kind not in _NETWORKS:
        known = " and ".join(_NETWORKS)
        raise ModelError(f"its network is a {kind}", path, f"Of nnU-Net's networks, segplan has {known}.")
    _check_architecture(arguments, path)
    features = arguments["features_per_stage"]
    shared = {
        "name": _NETWORKS[kind],
        "input_channels": input_channels,
        "num_classes": num_classes,
        "features": [int(count) for count in features],
        "strides": _per_axis(arguments["strides"], len(own["patch_size"])),
        "kernel_sizes": _per_axis(arguments["kernel_sizes"], len(own["patch_size"])),
        "convs_per_stage_decoder": _the_same(arguments["n_conv_per_stage_decoder"], "n_conv_per_stage_decoder", path),
    }
    if kind == "PlainConvUNet":
        return shared | {"convs_per_stage": _the_same(arguments["n_conv_per_stage"], "n_conv_per_stage", path)}
    blocks = arguments["n_blocks_per_stage"]
    return shared | {"blocks_per_stage": [blocks] * len(features) if isinstance(blocks, int) else list(blocks)}


def _architecture(own: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the network's class; plans of nnU-Net before 2.4 spell them differently."""
    if "architecture" in own:
        architecture = own["architecture"]
        return str(architecture["network_class_name"]).rpartition(".")[2], dict(architecture["arch_kwargs"])
    blocks = list(own["n_conv_per_stage_encoder"])
    base, most = int(own["UNet_base_num_features"]), int(own["unet_max_num_features"])
    kind = str(own.get("UNet_class_name", "PlainConvUNet"))
    return kind, {
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(blocks))],
        "kernel_sizes": own["conv_kernel_sizes"],
        "strides": own["pool_op_kernel_sizes"],
        "n_conv_per_stage": blocks,
        "n_blocks_per_stage": blocks,
        "n_conv_per_stage_decoder": own["n_conv_per_stage_decoder"],
    }


def _check_architecture(arguments: Mapping[str, Any], path: Path) -> None:
    for key, value in arguments.items():
        known = key in _OTHER_KEYS or value in _FIXED_ARCHITECTURE.get(key, ())
        if not known:
            what = f"its network has {key}={json.dumps(value)}, which segplan's does not"
            raise ModelError(what, path, "Only networks as nnU-Net's planners make them can be imported.")


def _per_axis(rows: Sequence[int | Sequence[int]], axes: int) -> list[list[int]]:
    return [[row] * axes if isinstance(row, int) else [int(value) for value in row] for row in rows]


def _the_same(counts: int | Sequence[int], key: str, path: Path) -> int:
    if isinstance(counts, int):
        return counts
    if len(set(counts)) != 1:
        raise ModelError(f"its stages differ in {key} ({list(counts)})", path, "segplan's have the same number each.")
    return int(counts[0])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ModelError(
            f"it cannot be read ({error.strerror})", path, "Name a folder of nnU-Net's results."
        ) from error
    except ValueError as error:
        raise ModelError(f"it is no valid JSON ({error})", path) from error
    if not isinstance(content, dict):
        raise ModelError("it is not a JSON object", path)
    return content
