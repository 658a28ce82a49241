"""Turn a checkpoint made by nnU-Net 2.8.1 into a segplan model folder; what the agreement tests need, no more."""

import json
from pathlib import Path

import numpy as np
import torch

from segplan.model_folder import write_model_json, write_weights

DATA = Path(__file__).parent.parent / "data" / "inference"
_NORMALIZATION = {"ZScoreNormalization": "zscore", "CTNormalization": "ct", "NoNormalization": "none"}
_SCALARS = [np._core.multiarray.scalar, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]


def import_fixture(configuration: str, target: Path) -> Path:
    """Make the model folder `target` of all folds of a fixture; returns it."""
    source = DATA / "models" / configuration
    for checkpoint_file in sorted(source.glob("fold_*/checkpoint_final.pth")):
        with torch.serialization.safe_globals(_SCALARS):
            checkpoint = torch.load(checkpoint_file, map_location="cpu", weights_only=True)
        weights = {key: value for key, value in checkpoint["network_weights"].items() if _canonical(key)}
        write_weights(target, checkpoint_file.parent.name.removeprefix("fold_"), weights)
        mirror_axes = checkpoint["inference_allowed_mirroring_axes"]
    plans = json.loads((source / "plans.json").read_text())
    dataset = json.loads((source / "dataset.json").read_text())
    resolved = _resolved(plans["configurations"], configuration)
    write_model_json(
        target,
        name=f"{plans['dataset_name']}/{configuration}",
        plan=_plan(plans, dataset, resolved, configuration),
        patch_size=resolved["patch_size"],
        network=_network(resolved["architecture"]["arch_kwargs"], dataset),
        mirror_axes=mirror_axes,
    )
    return target


def _canonical(key: str) -> bool:
    return not key.startswith("decoder.encoder.") and ".all_modules." not in key


def _resolved(configurations: dict, name: str) -> dict:
    own = configurations[name]
    return {**_resolved(configurations, own["inherits_from"]), **own} if "inherits_from" in own else own


def _plan(plans: dict, dataset: dict, resolved: dict, configuration: str) -> dict:
    spacing = resolved["spacing"]
    return {
        "dataset": plans["dataset_name"],
        "configuration": configuration,
        "channels": list(dataset["channel_names"].values()),
        "labels": dataset["labels"],
        "regions_class_order": dataset.get("regions_class_order"),
        "file_ending": dataset["file_ending"],
        "label_ending": dataset["file_ending"],
        "input_channels": len(dataset["channel_names"]),
        "spacing": [None, *spacing] if len(spacing) == 2 else spacing,
        "transpose": plans["transpose_forward"],
        "normalization": [_NORMALIZATION[scheme] for scheme in resolved["normalization_schemes"]],
        "use_mask_for_norm": resolved["use_mask_for_norm"],
        "intensities": [None for _ in dataset["channel_names"]],
    }


def _network(arguments: dict, dataset: dict) -> dict:
    return {
        "name": "PlainUNet",
        "input_channels": len(dataset["channel_names"]),
        "num_classes": len(dataset["labels"]),
        "features": arguments["features_per_stage"],
        "strides": arguments["strides"],
        "kernel_sizes": arguments["kernel_sizes"],
        "convs_per_stage": arguments["n_conv_per_stage"][0],
        "convs_per_stage_decoder": arguments["n_conv_per_stage_decoder"][0],
    }
