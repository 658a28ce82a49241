"""Build what a training run consists of, from its configuration: data, module, trainer."""

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from segplan.errors import ConfigError
from segplan.jobs.dashboards import Dashboards
from segplan.jobs.finetuning import start_from
from segplan.jobs.instantiate import instantiate, locate
from segplan.jobs.network_node import network_node
from segplan.jobs.slurm_environment import slurm_plugins
from segplan.jobs.training_device import accelerator, precision
from segplan.jobs.training_setup import TrainingSetup
from segplan.jobs.whole_case_dice import whole_cases
from segplan.patches import PatchDataModule
from segplan.patches.augmentation_device import check_device
from segplan.training import PatchDice, SafeCheckpointIO, SegmentationModule
from segplan.training.callbacks import (
    Checkpoints,
    EpochEnd,
    Freezing,
    History,
    MetricsCSV,
    StopOnSignal,
    TimeLimit,
    time_limit,
)
from segplan.training.finetune import matching
from segplan.training.micro_batches import is_out_of_memory, out_of_memory
from segplan.training.random_states import seed_generators

_DATA_SET_BY_SEGPLAN = frozenset(
    {
        "store_folder",
        "split",
        "labels",
        "augmentation",
        "use_mask_for_norm",
        "batches_per_epoch",
        "val_batches",
        "seed",
        "previous",
    }
)
_TRAINER_SET_BY_SEGPLAN = frozenset({"callbacks", "logger", "plugins", "default_root_dir"})
_MODULE_SET_BY_SEGPLAN = frozenset(
    {"network", "loss", "optimizer", "schedule", "patch_dice", "learning_rates", "metadata"}
)
_SWITCHED_OFF: dict[str, Any] = {
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


def build_network(setup: TrainingSetup, *, fresh: bool = True) -> nn.Module:
    """The network with the seed's initial weights, and for a `fresh` training with those of `finetune.checkpoint`.

    Raises:
        ConfigError: the network cannot be built, or a setting of fine-tuning does not fit it.
        ModelError: the weights to start from do not fit.
    """
    seed_generators(int(setup.config.seed))
    network: nn.Module = instantiate(network_node(setup.config.network))
    settings = setup.finetune
    matching(network, settings.freeze)  # what names no weight is refused now
    if fresh and settings.source is not None:
        start_from(network, settings, show=is_first_rank())
    return network


def build_loss(setup: TrainingSetup) -> nn.Module:
    """The loss of one resolution, told of regions and ignore label.

    Raises:
        ConfigError: it cannot do regions and the dataset has them, or the reverse; or `class_weights` are too few or
            too many.
    """
    node, labels = setup.config.loss, setup.labels.indexed
    extra: dict[str, Any] = {"ignore_label": labels.ignore}
    takes_regions = "regions" in inspect.signature(locate(str(node["_target_"]))).parameters
    if takes_regions != labels.has_regions:
        kind = "regions" if labels.has_regions else "plain labels"
        option = "dice_bce" if labels.has_regions else "dice_ce"
        raise ConfigError(f"{node['_target_']} does not fit: the dataset has {kind}", "loss", f"Use loss={option}.")
    if takes_regions:
        extra["regions"] = [list(values) for values in labels.targets.values()]
    given = node.get("class_weights")
    if given is not None and (not isinstance(given, ListConfig) or len(given) != labels.num_heads):
        what = f"{given} is no list of {labels.num_heads} numbers, and there are {labels.num_heads} classes"
        raise ConfigError(what, "loss.class_weights", "Give one a class, background first, without the ignore label.")
    loss: nn.Module = instantiate(node, **extra)
    return loss


def build_module(setup: TrainingSetup, identity: Mapping[str, Any], *, fresh: bool = True) -> SegmentationModule:
    """The LightningModule; its checkpoints carry the run's `identity` and what predicting needs to know.

    A training that goes on (not `fresh`) reads no weights of another model: its checkpoint's replace them.

    Raises:
        ConfigError: a value of its configuration nodes cannot work.
        ModelError: the weights to start from do not fit.
    """
    config, labels = setup.config, setup.labels
    _check_keys("module", config.module, SegmentationModule, _MODULE_SET_BY_SEGPLAN)
    network = build_network(setup, fresh=fresh)
    _check_optimizer(config.optimizer, network)
    metadata = {
        "identity": dict(identity),
        "plan": plain(config.plan),
        "labels": labels.to_json(),
        "mirror_axes": None if setup.mirror_axes is None else list(setup.mirror_axes),
    }
    return SegmentationModule(
        network=network,
        loss=build_loss(setup),
        optimizer=functools.partial(instantiate, config.optimizer),
        schedule=instantiate(config.schedule),
        patch_dice=PatchDice(labels.indexed.targets, labels.has_regions, labels.indexed.ignore),
        learning_rates=setup.finetune.learning_rates,
        metadata=metadata,
        **plain(config.module),
    )


def build_data(setup: TrainingSetup) -> PatchDataModule:
    """The loaders of training and validation patches.

    Raises:
        ConfigError: a value of the `data` node cannot work, or patches cannot be augmented where it is asked for.
    """
    config = setup.config
    _check_keys("data", config.data, PatchDataModule, _DATA_SET_BY_SEGPLAN)
    check_device(str(config.augmentation.get("device", "cpu")), accelerator(config))
    return PatchDataModule(
        store_folder=setup.store.folder,
        split=setup.split,
        labels=setup.labels,
        augmentation=plain(config.augmentation),
        use_mask_for_norm=list(config.plan.use_mask_for_norm),
        batches_per_epoch=int(config.trainer.limit_train_batches),
        val_batches=validation_batches(config),
        seed=int(config.seed),
        previous=None if setup.previous is None else setup.previous.segmentations.folder,
        **plain(config.data),
    )


def build_trainer(setup: TrainingSetup, stop: StopOnSignal, dashboards: Dashboards) -> pl.Trainer:
    """Lightning's Trainer with the arguments of the `trainer` node; what segplan does better itself is switched off.

    Raises:
        ConfigError: Lightning does not have such an argument, or refuses its value on this machine.
    """
    config = setup.config
    silence_lightning()
    arguments = plain(config.trainer)
    for key, value in _SWITCHED_OFF.items():
        if arguments.pop(key, value) != value:
            raise ConfigError("is decided by segplan", f"trainer.{key}", "Leave it out.")
    _check_keys("trainer", arguments, pl.Trainer, _TRAINER_SET_BY_SEGPLAN)
    _check_keys("checkpoint", config.checkpoint, Checkpoints, {"folder", "stop"})
    arguments["limit_val_batches"] = validation_batches(config)
    arguments["precision"] = precision(config)[0]
    arguments.setdefault("strategy", _strategy(config))
    arguments |= _determinism(config)
    limit = arguments.pop("max_time", None)
    callbacks: list[pl.Callback] = [
        stop,
        EpochEnd(),
        *([] if limit is None else [TimeLimit(time_limit(limit), stop)]),
        *whole_cases(setup),
        *instantiate(config.callbacks).values(),
        History(setup.folder / "history.jsonl"),
        MetricsCSV(setup.folder / "metrics.csv"),
        Checkpoints(setup.checkpoints, stop, **plain(config.checkpoint)),
    ]
    if setup.finetune.freeze:
        callbacks.append(Freezing(setup.finetune.freeze, setup.finetune.freeze_epochs))
    if dashboards.callback is not None:
        callbacks.append(dashboards.callback)
    try:
        return pl.Trainer(
            **arguments,
            **_SWITCHED_OFF,
            callbacks=callbacks,
            logger=list(dashboards.loggers) or False,
            plugins=[SafeCheckpointIO(), *slurm_plugins()],
            default_root_dir=setup.folder,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"Lightning refuses a value ({error})", "trainer") from error


def fit(
    setup: TrainingSetup, trainer: pl.Trainer, module: SegmentationModule, data: PatchDataModule, resume: Path | None
) -> None:
    """Train to the end, from `resume` on.

    Raises:
        RunError: a step does not fit in memory; says what to change.
    """
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        may_shrink = trainer.world_size == 1 and trainer.accumulate_grad_batches == 1
        may_shrink = may_shrink and setup.config.module.oom == "stop"
        parts = 1 if module.execution is None else module.execution.parts
        device = str(trainer.strategy.root_device)
        size = module.batch_size
        raise out_of_memory(size, setup.patch_size, parts, device, may_shrink=may_shrink) from error


def as_begun(config: DictConfig, checkpoint: Mapping[str, Any]) -> DictConfig:
    """The configuration of a run that goes on: what `auto` meant when it began stays."""
    begun = checkpoint["segplan"].get("precision")
    if begun is None or str(config.trainer.precision) != "auto":
        return config
    merged = OmegaConf.merge(config, {"trainer": {"precision": begun}})
    return merged if isinstance(merged, DictConfig) else config


def loader_processes(data: PatchDataModule, trainer: pl.Trainer) -> str:
    """How many loader processes each training process gets, why, and through what memory batches come."""
    data.trainer = trainer  # as `fit` will do: the device decides
    return data.loading()


def warmup_note(config: DictConfig) -> str | None:
    """What to tell of a warm-up that takes all epochs, so that the learning rate never falls; None if it does not."""
    warmup, epochs = config.schedule.get("warmup_epochs", 0), int(config.trainer.max_epochs)
    if not warmup or warmup < epochs:
        return None
    reached = f"the learning rate only rises, to {epochs / warmup:.0%} of optimizer.lr, and never falls"
    return f"schedule.warmup_epochs={warmup} of trainer.max_epochs={epochs}: {reached}"


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


def _check_keys(name: str, node: Any, target: Callable[..., Any], set_by_segplan: Set[str] = frozenset()) -> None:
    """Refuse a key of the node `name` that is no argument of `target`, or that segplan itself sets."""
    known = [key for key in inspect.signature(target).parameters if key not in set_by_segplan]
    for key in node:
        if key in set_by_segplan:
            raise ConfigError("is set by segplan itself", f"{name}.{key}", "Leave it out.")
        if key not in known:
            raise ConfigError("there is no such key", f"{name}.{key}", f"There are {', '.join(known)}.")


def _determinism(config: DictConfig) -> dict[str, Any]:
    """What `determinism=strict` asks of Lightning; some CUDA kernels have no deterministic twin, so there it warns."""
    if config.get("determinism", "fast") != "strict":
        return {}
    return {"deterministic": "warn" if accelerator(config) == "cuda" else True, "benchmark": False}


def _strategy(config: DictConfig) -> str:
    """Lightning's name of how processes share the work.

    The loss weighs the lowest resolution's head with 0: DDP has to look which parameters got a gradient.
    """
    devices, nodes = config.trainer.get("devices", 1), config.trainer.get("num_nodes", 1)
    alone = devices in (1, "1") or (devices in ("auto", -1, "-1") and accelerator(config) != "cuda")
    return "auto" if alone and nodes == 1 else "ddp_find_unused_parameters_true"


def _check_optimizer(node: DictConfig, network: nn.Module) -> None:
    """Refuse values that the optimiser does not take now, while nothing is discarded or written yet."""
    try:
        instantiate(node, params=network.parameters())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{node['_target_']} refuses a value ({error})", "optimizer") from error
