"""The job `segplan show-augmentation`: a picture of the patches that a training will see, and what is done to them."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from segplan.augmentation.one_of import OneOfParams
from segplan.errors import ConfigError
from segplan.jobs import training_parts
from segplan.jobs.training_setup import TrainingSetup, prepare_training
from segplan.patches import PatchDataset
from segplan.reporting.patch_sheet import PatchPair, write_patch_sheet

MOST = 200


def run(config: DictConfig, number: int = 12, output: Path | None = None) -> int:
    """Write the sheet of the first `number` training patches; returns the exit code.

    Args:
        config: a training's resolved configuration; its seed decides the patches, which are those of training.
        number: how many patches.
        output: the PNG to write; by default augmentation.png in the folder of the plan.

    Raises:
        SegplanError: the configuration cannot be trained, or the file cannot be written.
    """
    if not 1 <= number <= MOST:
        raise ConfigError(f"{number} patches cannot be shown", "n", f"Use a number from 1 to {MOST}.")
    setup = prepare_training(config)
    dataset = training_parts.build_data(setup).train_dataset()
    address = "/".join(str(part) for part in (config.dataset, config.plan_name, config.configuration) if part)
    path = output or Path(config.workspace, "plan", address).with_name(f"{config.configuration}.augmentation.png")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path} is no name of a picture", "output", "Use a name that ends in .png.")
    labels = setup.labels.indexed
    patches = [_pair(dataset, index, _channel_names(setup)) for index in range(number)]
    write_patch_sheet(
        path,
        patches,
        _spacing(config),
        title=f"{address} · fold {config.fold} · seed {config.seed} · the first {number} training patches",
        names=_names(labels.targets) | ({} if labels.ignore is None else {labels.ignore: "ignore"}),
        ignore=labels.ignore,
    )
    print(path)
    return 0


def describe(params: Mapping[str, Any]) -> list[str]:
    """One line for each transform that acts on a sample: its name and its parameters; seeds are left out."""
    return [
        ": ".join(part for part in (name.replace("_", " "), _text(drawn)) if part) for name, drawn in params.items()
    ]


def _pair(dataset: PatchDataset, index: int, channel_names: list[str]) -> PatchPair:
    draw = dataset.draw(index)
    case = dataset.open(draw.case)
    channel = index % len(channel_names)
    before = dataset.pipeline.apply(case.image, dataset.label_maps(case), {}, draw.box)
    after = dataset.pipeline.apply(case.image, dataset.label_maps(case), draw.params, draw.box)
    parts = [f"{index + 1}  {draw.case}", *(["onto foreground"] if draw.is_forced else [])]
    if len(channel_names) > 1:
        parts.append(channel_names[channel])
    return PatchPair(" · ".join(parts), describe(draw.params), _shown(before, channel), _shown(after, channel))


def _shown(patch: tuple[Tensor, Tensor], channel: int) -> tuple[np.ndarray, np.ndarray]:
    """One channel and the labels of a patch, both (Z, Y, X); a 2D patch as one slice."""
    image, labels = patch[0][channel].numpy(), patch[1][0].numpy()
    return (image[None], labels[None]) if image.ndim == 2 else (image, labels)


def _text(value: Any) -> str:
    """Parameters as a person reads them: fields of a dataclass by name, numbers short, angles in degrees."""
    if isinstance(value, OneOfParams):
        return f"{value.name}, {_text(value.params)}"
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        told = {str(key): inner for key, inner in value.items() if key != "seed" and inner is not False}
        return " · ".join(key if inner is True else _field(key, inner) for key, inner in told.items())
    if isinstance(value, tuple | list):
        nested = any(isinstance(one, tuple | list) for one in value)
        return ", ".join(f"({_text(one)})" if nested and one is not None else _text(one) for one in value)
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    if isinstance(value, Tensor | np.ndarray):
        return f"array {tuple(value.shape)}"
    return "none" if value is None else str(value)


def _field(name: str, value: Any) -> str:
    if name == "angles":
        return "turned by " + ", ".join(f"{math.degrees(angle):.0f}°" for angle in value)
    return f"{name.replace('_', ' ')} {_text(value)}"


def _names(targets: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """Per label value the names of the classes or regions that it belongs to."""
    names: dict[int, list[str]] = {}
    for name, values in targets.items():
        for value in values:
            names.setdefault(value, []).append(name)
    return {value: " + ".join(own) for value, own in names.items()}


def _channel_names(setup: TrainingSetup) -> list[str]:
    count = len(setup.config.plan.use_mask_for_norm)
    given = [str(name) for name in setup.config.plan.get("channels") or []]
    return given if len(given) == count else [f"channel {number}" for number in range(count)]


def _spacing(config: DictConfig) -> tuple[float, float, float]:
    z, y, x = (1.0 if step is None else float(step) for step in config.plan.spacing)
    return z, y, x
