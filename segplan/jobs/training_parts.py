"""Build what a training run consists of, from its configuration: data, module, trainer."""

import functools
import inspect
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from segplan.errors import ConfigError
from segplan.inference.precision import select_device
from segplan.jobs.instantiate import instantiate, locate
from segplan.jobs.training_setup import TrainingSetup
from segplan.patches import PatchDataModule
from segplan.training import PatchDice, SafeCheckpointIO, SegmentationModule, auto_precision, load_pretrained
from segplan.training.callbacks import Checkpoints, MetricsCSV, StopOnSignal


def build_network(setup: TrainingSetup) -> nn.Module:
    """The network with the seed's initial weights, or with those of `finetune.checkpoint`.

    Raises:
        ConfigError: the patch does not fit it.
        ModelError: the weights to start from do not fit.
    """
    node = setup.config.network
    torch.manual_seed(int(setup.config.seed))
    network: nn.Module = instantiate(node)
    if setup.config.finetune.checkpoint is not None:
        load_pretrained(network, Path(str(setup.config.finetune.checkpoint)))
    return network


def build_loss(setup: TrainingSetup) -> nn.Module:
    """The loss of one resolution, told of regions and ignore label.

    Raises:
        ConfigError: it cannot do regions and the dataset has them, or the reverse.
    """
    node, labels = setup.config.loss, setup.labels
    extra: dict[str, Any] = {"ignore_label": labels.ignore}
    takes_regions = "regions" in inspect.signature(locate(str(node["_target_"]))).parameters
    if takes_regions != labels.has_regions:
        kind = "regions" if labels.has_regions else "plain labels"
        option = "dice_bce" if labels.has_regions else "dice_ce"
        raise ConfigError(f"{node['_target_']} does not fit: the dataset has {kind}", "loss", f"Use loss={option}.")
    if takes_regions:
        extra["regions"] = [list(values) for values in labels.targets.values()]
    loss: nn.Module = instantiate(node, **extra)
    return loss


def build_module(setup: TrainingSetup, identity: Mapping[str, Any]) -> SegmentationModule:
    """The LightningModule; its checkpoints carry the run's `identity` and what predicting needs to know."""
    config, labels = setup.config, setup.labels
    metadata = {
        "identity": dict(identity),
        "plan": plain(config.plan),
        "labels": labels.to_json(),
        "mirror_axes": None if setup.mirror_axes is None else list(setup.mirror_axes),
    }
    return SegmentationModule(
        network=build_network(setup),
        loss=build_loss(setup),
        optimizer=functools.partial(instantiate, config.optimizer),
        schedule=instantiate(config.schedule),
        patch_dice=PatchDice(labels.targets, labels.has_regions, labels.ignore),
        metadata=metadata,
        **plain(config.module),
    )


def build_data(setup: TrainingSetup) -> PatchDataModule:
    """The loaders of training and validation patches."""
    config = setup.config
    return PatchDataModule(
        store_folder=setup.store.folder,
        split=setup.split,
        labels=setup.labels,
        augmentation=plain(config.augmentation),
        use_mask_for_norm=list(config.plan.use_mask_for_norm),
        batches_per_epoch=int(config.trainer.limit_train_batches),
        val_batches=validation_batches(config),
        seed=int(config.seed),
        **plain(config.data),
    )


def build_trainer(setup: TrainingSetup, stop: StopOnSignal) -> pl.Trainer:
    """Lightning's Trainer with the arguments of the `trainer` node; what segplan does better itself is switched off."""
    config = setup.config
    silence_lightning()
    arguments = plain(config.trainer)
    arguments["limit_val_batches"] = validation_batches(config)
    arguments["precision"] = precision(config)[0]
    callbacks = [
        stop,
        *instantiate(config.callbacks).values(),
        MetricsCSV(setup.folder / "metrics.csv"),
        Checkpoints(setup.checkpoints, stop, **plain(config.checkpoint)),
    ]
    return pl.Trainer(
        **arguments,
        callbacks=callbacks,
        logger=list(instantiate(config.logger).values()) or False,
        plugins=[SafeCheckpointIO()],
        default_root_dir=setup.folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def accelerator(config: DictConfig) -> str:
    """The type of device that the run uses: cpu, cuda, mps …"""
    name = str(config.trainer.accelerator)
    if name == "auto":
        return select_device("auto").type
    return "cuda" if name == "gpu" else name


def precision(config: DictConfig) -> tuple[str, str]:
    """Lightning's name of the precision, and why it was chosen."""
    chosen = str(config.trainer.precision)
    return auto_precision(accelerator(config)) if chosen == "auto" else (chosen, "asked for")


def validation_batches(config: DictConfig) -> int:
    """`trainer.limit_val_batches`, by default a fifth of the training's (nnU-Net: 50 of 250)."""
    given = config.trainer.limit_val_batches
    return max(1, round(int(config.trainer.limit_train_batches) / 5)) if given is None else int(given)


def is_first_rank() -> bool:
    """Whether this process is the one that prints and writes; the only one unless training uses several devices."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def silence_lightning() -> None:
    """Keep Lightning's tips, advertisements and remarks on what segplan decides from the output; errors stay."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("pytorch_lightning", "lightning_fabric", "torchmetrics"):
        warnings.filterwarnings("ignore", module=module)
    warnings.filterwarnings("ignore", message=".*(does not have many workers|not resumable|isinstance\\(treespec).*")


def plain(node: Any) -> dict[str, Any]:
    """A configuration node as a dictionary of plain values."""
    container = OmegaConf.to_container(node, resolve=True)
    return {str(key): value for key, value in container.items()} if isinstance(container, dict) else {}
