"""Make a model folder of STU-Net's published weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segplan.errors import ModelError
from segplan.inference.settings import MODES, NNUNET, STUNET_V1
from segplan.interop.pretrained import read_pretrained
from segplan.interop.stunet_labels import LABELS
from segplan.interop.stunet_plans import StunetPlan, read_plan, strides_of
from segplan.model_folder import MODEL_FILE, ModelFolder, write_model_json, write_weights
from segplan.networks import STUNet
from segplan.planning import check_patch

_BLOCK = re.compile(r"conv_blocks_context\.(\d+)\.(\d+)\.conv1\.weight")


@dataclass(frozen=True)
class ImportSettings:
    """What a user may choose about the import.

    Args:
        labels: "totalsegmentator", "abdomenatlas", or "auto": by the number of outputs.
        mode: "stunet_v1", "nnunet", or "auto": stunet_v1 for .model files, nnunet for .pth; how `inference.mode=auto`
            predicts with the model.
        pools: downsampling from each stage to the next; None: the plan's.
        patch_size: voxels, (Z, Y, X); None: the plan's.
        spacing: mm, (z, y, x); None: the plan's.
        use_plan: read the plan from FILE.pkl where it is there; else the published one is assumed.
        fold: the fold's name in the model folder.
    """

    labels: str = "auto"
    mode: str = "auto"
    pools: tuple[tuple[int, ...], ...] | None = None
    patch_size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    use_plan: bool = True
    fold: str = "0"


def import_stunet(source: Path, target: Path, settings: ImportSettings | None = None) -> ModelFolder:
    """Turn a file of STU-Net weights into the model folder `target`.

    Args:
        source: NAME.model of the authors' first program, or .pth of their second.
        target: the model folder to make; must hold no model yet.
        settings: labels, poolings and how to predict; None: the defaults.

    Raises:
        ModelError: the file holds no STU-Net, or its outputs have no known names.
        StorageError: the disk is full or the folder cannot be written.
    """
    settings = settings or ImportSettings()
    if (target / MODEL_FILE).exists():
        raise ModelError("there is a model already", target, "Name a new folder, or remove this one.")
    weights = dict(read_pretrained(source).weights)
    network = network_of(weights, source)
    names = _label_names(settings.labels, network["num_classes"], source)
    plan = _plan(source, settings)
    mode = settings.mode if settings.mode != "auto" else NNUNET if source.suffix == ".pth" else STUNET_V1
    if mode not in MODES:
        raise ModelError("there is no such mode", f"mode={mode}", f"Use auto, {' or '.join(MODES)}.")
    network["strides"] = strides_of(plan.pools, len(network["features"]))
    _check(plan, network, weights, source)
    write_weights(target, settings.fold, weights)
    write_model_json(
        target,
        name=f"STU-Net/{source.stem}",
        plan=_plan_node(plan, network, names) | {"inference_mode": mode, "imported_from": f"STU-Net, {source.name}"},
        patch_size=plan.patch_size,
        network=network,
        mirror_axes=(0, 1, 2),
    )
    return ModelFolder.open(target)


def network_of(weights: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """Name and arguments, but for the strides, of the STU-Net that has these weights.

    Raises:
        ModelError: it is no STU-Net.
    """
    blocks: dict[int, int] = {}
    for match in filter(None, map(_BLOCK.fullmatch, weights)):
        stage = int(match[1])
        blocks[stage] = max(blocks.get(stage, 0), int(match[2]) + 1)
    head = weights.get("seg_outputs.0.weight")
    if sorted(blocks) != list(range(len(blocks))) or len(blocks) < 2 or head is None:
        raise ModelError("holds no STU-Net", source, "For nnU-Net's models: segplan import-nnunet.")
    first = [weights[f"conv_blocks_context.{stage}.0.conv1.weight"] for stage in range(len(blocks))]
    return {
        "name": "STUNet",
        "input_channels": int(first[0].shape[1]),
        "num_classes": int(head.shape[0]),
        "features": [int(weight.shape[0]) for weight in first],
        "blocks_per_stage": [blocks[stage] for stage in range(len(blocks))],
    }


def _label_names(choice: str, outputs: int, source: Path) -> tuple[str, ...]:
    if choice == "auto":
        fitting = [names for names in LABELS.values() if len(names) == outputs]
        if fitting:
            return fitting[0]
        remedy = f"Known are {', '.join(f'{name} ({len(names)})' for name, names in LABELS.items())}."
        raise ModelError(f"has {outputs} outputs, whose names are not known", source, remedy)
    if choice not in LABELS:
        raise ModelError("there is no such list of labels", f"labels={choice}", f"Use auto or {', '.join(LABELS)}.")
    names = LABELS[choice]
    if len(names) != outputs:
        raise ModelError(f"has {outputs} outputs, {choice} has {len(names)} labels", source, "Use labels=auto.")
    return names


def _plan(source: Path, settings: ImportSettings) -> StunetPlan:
    beside = source.with_name(f"{source.name}.pkl")
    plan = read_plan(beside) if settings.use_plan and beside.is_file() else StunetPlan()
    given = {key: getattr(settings, key) for key in ("pools", "patch_size", "spacing")}
    return replace(plan, **{key: value for key, value in given.items() if value is not None})


def _check(plan: StunetPlan, network: Mapping[str, Any], weights: Mapping[str, Tensor], source: Path) -> None:
    check_patch(list(plan.patch_size), network["strides"])
    if len(plan.normalization) != network["input_channels"]:
        what = f"has {network['input_channels']} input channels, the plan {len(plan.normalization)}"
        raise ModelError(what, source, "Put the file's own plan beside it, as FILE.pkl.")
    with torch.device("meta"):
        built = STUNet(**{key: value for key, value in network.items() if key != "name"})
    try:
        built.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        raise ModelError(f"is not a whole STU-Net ({' '.join(str(error).split())[:200]})", source) from error


def _plan_node(plan: StunetPlan, network: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    channels = network["input_channels"]
    return {
        "dataset": "STU-Net",
        "configuration": "3d_fullres",
        "channels": ["CT"] if channels == 1 else [f"channel {number}" for number in range(channels)],
        "labels": {name: number for number, name in enumerate(names)},
        "regions_class_order": None,
        "ignore_label": None,
        "file_ending": ".nii.gz",
        "label_ending": ".nii.gz",
        "input_channels": channels,
        "num_classes": network["num_classes"],
        "spacing": list(plan.spacing),
        "transpose": [0, 1, 2],
        "normalization": list(plan.normalization),
        "use_mask_for_norm": [False] * channels,
        "intensities": [None if known is None else dict(known) for known in plan.intensities],
    }
