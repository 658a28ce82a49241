"""Write a model folder as a trained model of nnU-Net v2, which nnU-Net itself predicts with."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segplan.errors import ModelError
from segplan.imaging import atomic_folder, atomic_write
from segplan.interop.nnunet.plans import RESAMPLING, RESAMPLING_ARGUMENTS
from segplan.model_folder import ONNX_FILE, ModelFolder
from segplan.preprocessing.plan_node import labels_of

TRAINER, PLANS = "nnUNetTrainer", "nnUNetPlans"
_CLASSES = {"PlainUNet": "PlainConvUNet", "ResidualUNet": "ResidualEncoderUNet"}
_NORMALIZATION = {
    "zscore": "ZScoreNormalization",
    "ct": "CTNormalization",
    "none": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
_CHECKPOINTS = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
_PICTURES = (".png", ".bmp", ".tif")
_UNREAD = {".jpg": ".png", ".jpeg": ".png", ".dcm": ".nii.gz"}


def export_nnunet(model: ModelFolder, results: Path) -> list[Path]:
    """Write `model`, and of a cascade its first stage too, as nnU-Net v2 keeps trained models.

    Args:
        model: a plain or residual-encoder U-Net.
        results: a folder for DATASET/TRAINER__PLANS__CONFIGURATION.

    Returns:
        The folders written, a first stage first.

    Raises:
        ModelError: nnU-Net has no such network or labels, or the folder is there already.
        StorageError: the disk is full or the folder cannot be written.
    """
    dataset, configuration = str(model.plan["dataset"]), str(model.plan["configuration"])
    folder = results / dataset / f"{TRAINER}__{PLANS}__{configuration}"
    if folder.exists():
        raise ModelError("it is there already", folder, "Name another folder, or remove this one.")
    plans, description = plans_json(model), dataset_json(model)
    first = [] if model.previous is None else export_nnunet(model.previous, results)
    with atomic_folder(folder) as temporary:
        _write_folds(model, temporary, plans, description)
        _write_json(temporary / "dataset.json", description)
        _write_json(temporary / "plans.json", plans)
    return [*first, folder]


def _write_folds(model: ModelFolder, folder: Path, plans: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    configuration = str(model.plan["configuration"])
    for kind, file_name in _CHECKPOINTS.items():
        for fold in model.folds(kind):
            if model.weights_path(fold, kind).name == ONNX_FILE:
                raise ModelError("it is an export itself", model.path, "Export the model that it was made of.")
            weights = with_aliases(model.read_weights(fold, kind))
            made_by = {"plans": plans, "configuration": configuration, "fold": _fold(fold), "dataset_json": description}
            _write_checkpoint(folder / f"fold_{fold}" / file_name, weights, made_by, model.mirror_axes)


def plans_json(model: ModelFolder) -> dict[str, Any]:
    """nnU-Net's plans.json of a model; what only training needs is left at nnU-Net's usual values.

    Raises:
        ModelError: nnU-Net has no such network.
    """
    plan, name = model.plan, str(model.plan["configuration"])
    transpose = [int(axis) for axis in plan["transpose"]]
    spacing = [value for value in plan["spacing"] if value is not None]
    own: dict[str, Any] = {
        "data_identifier": f"{PLANS}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(model.patch_size),
        "median_image_size_in_voxels": plan.get("median_shape") or list(model.patch_size),
        "spacing": spacing,
        "normalization_schemes": [_NORMALIZATION[scheme] for scheme in plan["normalization"]],
        "use_mask_for_norm": list(plan["use_mask_for_norm"]),
        **{f"resampling_fn_{kind}": RESAMPLING for kind in RESAMPLING_ARGUMENTS},
        **{f"resampling_fn_{kind}_kwargs": arguments for kind, arguments in RESAMPLING_ARGUMENTS.items()},
        "architecture": _architecture(model),
        "batch_dice": False,
    }
    configurations = {name: own}
    if (previous := model.previous) is not None:
        stage = str(plan["previous_stage"])
        own["previous_stage"] = stage
        earlier = plans_json(previous)["configurations"][str(previous.plan["configuration"])]
        configurations[stage] = earlier | {"next_stage": name}
    return {
        "dataset_name": plan["dataset"],
        "plans_name": PLANS,
        "original_median_spacing_after_transp": [1.0] * (3 - len(spacing)) + spacing,
        "original_median_shape_after_transp": plan.get("median_shape") or list(model.patch_size),
        "image_reader_writer": _reader(str(plan.get("file_ending", ".nii.gz")), model),
        "transpose_forward": transpose,
        "transpose_backward": [int(axis) for axis in np.argsort(transpose)],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(number): dict(known or {}) for number, known in enumerate(plan["intensities"])
        },
    }


def dataset_json(model: ModelFolder) -> dict[str, Any]:
    """nnU-Net's dataset.json of a model.

    Raises:
        ModelError: its labels are not 0, 1, 2, …, as nnU-Net wants them.
    """
    plan, labels = model.plan, labels_of(model.plan)
    if labels.indexed is not labels:
        values = ", ".join(str(value) for value in labels.all_labels)
        raise ModelError(f"its labels are {values}; nnU-Net wants 0, 1, 2, …", model.path, "It cannot be exported.")
    channels = plan.get("channels") or [f"channel {number}" for number in range(len(plan["normalization"]))]
    described: dict[str, Any] = {
        "channel_names": {str(number): str(name) for number, name in enumerate(channels)},
        "labels": dict(plan["labels"]),
        "numTraining": 0,
        "file_ending": plan.get("file_ending", ".nii.gz"),
    }
    if plan.get("regions_class_order"):
        described["regions_class_order"] = list(plan["regions_class_order"])
    return described


def with_aliases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every name that nnU-Net's networks register a parameter under; its strict loading wants them all."""
    named = dict(weights)
    for key, value in weights.items():
        inside_block = re.fullmatch(r"(.+\.)(conv|norm)(\.[a-z_]+)", key)
        if inside_block and not key.startswith("decoder.transpconvs"):
            number = 0 if inside_block[2] == "conv" else 1
            named[f"{inside_block[1]}all_modules.{number}{inside_block[3]}"] = value
    return named | {f"decoder.{key}": value for key, value in named.items() if key.startswith("encoder.")}


def _architecture(model: ModelFolder) -> dict[str, Any]:
    network = dict(model.network)
    kind = str(network.get("name"))
    if kind not in _CLASSES:
        raise ModelError(f"nnU-Net has no {kind}", model.path, f"It reads {' and '.join(_CLASSES)}.")
    stages, axes = len(network["features"]), len(model.patch_size)
    arguments = {
        "n_stages": stages,
        "features_per_stage": list(network["features"]),
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [list(kernel) for kernel in network["kernel_sizes"]],
        "strides": [list(stride) for stride in network["strides"]],
        "n_conv_per_stage_decoder": [network.get("convs_per_stage_decoder", 2 if kind == "PlainUNet" else 1)]
        * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    if kind == "PlainUNet":
        arguments["n_conv_per_stage"] = [network.get("convs_per_stage", 2)] * stages
    else:
        arguments["n_blocks_per_stage"] = list(network["blocks_per_stage"])
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{_CLASSES[kind]}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _reader(file_ending: str, model: ModelFolder) -> str:
    """nnU-Net's reader of such files; its SimpleITKIO reads all that SimpleITK knows."""
    ending = file_ending.lower()
    if ending == ".tiff" or (ending == ".tif" and len(model.patch_size) == 3):
        return "Tiff3DIO"
    if ending in _PICTURES:
        return "NaturalImage2DIO"
    if ending in _UNREAD:
        remedy = f"Set plan.file_ending in a copy of its model.json to {_UNREAD[ending]}, and convert images to that."
        raise ModelError(f"nnU-Net reads no {ending} files", model.path, remedy)
    return "SimpleITKIO"


def _fold(fold: str) -> int | str:
    return int(fold) if fold.isdigit() else fold


def _write_checkpoint(
    path: Path, weights: Mapping[str, Tensor], made_by: Mapping[str, Any], mirror_axes: tuple[int, ...] | None
) -> None:
    content = {
        "network_weights": weights,
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 0,
        "init_args": made_by,
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": mirror_axes,
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
