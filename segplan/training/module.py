"""The LightningModule: a training and a validation step, the patch-wise Dice of an epoch, and its moving average."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from segplan.errors import RunError
from segplan.networks import set_deep_supervision
from segplan.training.clock import StepClock
from segplan.training.deep_supervision import DeepSupervisionLoss
from segplan.training.finetune import SCALE_KEY, parameter_groups
from segplan.training.patch_dice import PatchDice
from segplan.training.schedule import PlateauDecay

EMA_DECAY = 0.9  # nnU-Net's: nine parts history, one part the new epoch
STATE_KEY = "segplan"  # segplan's part of a checkpoint


class SegmentationModule(pl.LightningModule):
    """Trains a network on patches.

    Args:
        network: maps (B, C, *spatial) to logits, with deep supervision to a list of them.
        loss: takes logits and labels of one resolution.
        optimizer: makes the optimiser from the keyword argument `params`.
        schedule: factor on the learning rate, of (epoch, max_epochs).
        patch_dice: counts validation patches.
        deep_supervision: train on the heads of all resolutions; helps small structures at little cost.
        compile: compile the network; faster steps for minutes of start-up.
        learning_rates: factor on the learning rate of each part of the network; 1 where left out.
        metadata: plain values (plan, labels, mirroring, identity) that every checkpoint carries.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[int, int], float],
        patch_dice: PatchDice,
        deep_supervision: bool = True,
        compile: bool = False,
        learning_rates: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        set_deep_supervision(network, deep_supervision)
        self.network = network
        if compile:
            network.compile()
        self.loss = DeepSupervisionLoss(loss)
        self.patch_dice = patch_dice
        self.train_loss, self.val_loss = RunningMean(), RunningMean()
        self.clock = StepClock()
        self.ema: float | None = None
        self.best_ema: float | None = None
        self.ended_because: str | None = None
        self._make_optimizer, self._schedule = optimizer, schedule
        self._learning_rates = dict(learning_rates or {})
        self._metadata = dict(metadata or {})

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser over all parameters; the schedule is applied at each epoch's start."""
        return self._make_optimizer(params=parameter_groups(self.network, self._learning_rates))

    def on_train_start(self) -> None:
        """Set the rate also where a resumed epoch is entered in its middle."""
        self._set_learning_rate()
        self.clock.start_epoch()

    def on_train_epoch_start(self) -> None:
        """Begin an epoch's means; not called for an epoch that is resumed in its middle."""
        self._set_learning_rate()
        self.train_loss.reset()
        self.clock.start_epoch()

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """The batch is here: waiting ends."""
        self.clock.start_step()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch: image (B, C, *spatial), labels (B, *spatial)."""
        loss: Tensor = self.loss(self.network(batch["image"]), batch["labels"])
        self.train_loss.update(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Mapping[str, Any], batch_idx: int) -> None:
        """The step is done: waiting begins."""
        self.clock.end_step(batch["image"].shape[0])

    def on_validation_epoch_start(self) -> None:
        """Begin the validation's means."""
        self.patch_dice.reset()
        self.val_loss.reset()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Count a batch of validation patches."""
        logits = self.network(batch["image"])
        self.val_loss.update(self.loss(logits, batch["labels"]))
        highest = logits if isinstance(logits, Tensor) else logits[0]
        self.patch_dice.update(highest.float(), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Update the moving average of the patch Dice; an epoch in which no target occurred leaves it as it was."""
        if self.trainer.sanity_checking:
            return
        value = float(self.patch_dice.compute().nanmean())
        if not math.isnan(value):
            self.ema = value if self.ema is None else EMA_DECAY * self.ema + (1 - EMA_DECAY) * value

    def on_train_epoch_end(self) -> None:
        """Send the epoch to the loggers, if there are any; stop when the loss is no number."""
        summary = self.epoch_summary()
        self.log_dict({key: value for key, value in summary.items() if key not in ("epoch", "step")})
        if not math.isfinite(summary["train_loss"]):
            raise RunError(
                f"the training loss became {summary['train_loss']} in epoch {summary['epoch']}",
                remedy="Look for extreme intensities, lower optimizer.lr, or set trainer.precision=32-true.",
            )
        if isinstance(self._schedule, PlateauDecay):
            self._schedule.observe(summary["train_loss"], summary["val_loss"])
            self.ended_because = self._schedule.finished
            self.trainer.should_stop = self.ended_because is not None

    def note_best(self) -> bool:
        """Whether the moving average is the highest so far; remembers it as such."""
        is_best = self.ema is not None and (self.best_ema is None or self.ema > self.best_ema)
        self.best_ema = self.ema if is_best else self.best_ema
        return is_best

    def epoch_summary(self) -> dict[str, float]:
        """What there is to say about the epoch that just ended; one row of metrics.csv.

        Waits for the device. Epochs count from 1. `patch_dice` is the mean over the targets that occurred.
        """
        dice = self.patch_dice.compute().reshape(-1).tolist()  # torchmetrics makes a single value a scalar
        seen = [value for value in dice if not math.isnan(value)]
        first = self.trainer.optimizers[0].param_groups[0]
        return {
            "epoch": self.current_epoch + 1,
            "step": self.global_step,
            "lr": float(first["lr"]) / first.get(SCALE_KEY, 1.0),
            "train_loss": float(self.train_loss.compute()),
            "val_loss": float(self.val_loss.compute()),
            "patch_dice": sum(seen) / len(seen) if seen else math.nan,
            **{f"patch_dice/{name}": value for name, value in zip(self.patch_dice.names, dice, strict=True)},
            "ema": math.nan if self.ema is None else self.ema,
            "samples_per_s": self.clock.samples_per_s,
            "waiting_share": self.clock.waiting_share,
            "epoch_s": self.clock.epoch_s,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what resuming needs besides Lightning's own; plain values and tensors only."""
        checkpoint[STATE_KEY] = {
            "metadata": self._metadata,
            "ema": self.ema,
            "best_ema": self.best_ema,
            "ended_because": self.ended_because,
            "schedule": self._schedule.state_dict() if isinstance(self._schedule, PlateauDecay) else None,
            "train_loss": self.train_loss.metric_state,
            "val_loss": self.val_loss.metric_state,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added."""
        state = checkpoint[STATE_KEY]
        self.ema, self.best_ema = state["ema"], state["best_ema"]
        if isinstance(self._schedule, PlateauDecay):
            self._schedule.load_state_dict(state["schedule"])
        for metric, values in ((self.train_loss, state["train_loss"]), (self.val_loss, state["val_loss"])):
            metric.restore(values)

    def _set_learning_rate(self) -> None:
        factor = self._schedule(self.current_epoch, int(self.trainer.max_epochs or 1))
        for group in self.trainer.optimizers[0].param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor * group.get(SCALE_KEY, 1.0)


class RunningMean(Metric):
    """Mean of scalars, kept on their device so that adding one waits for nothing; 0/0 gives NaN."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, value: Tensor) -> None:
        """Add a scalar."""
        self.total += value.double()
        self.count += 1

    def compute(self) -> Tensor:
        """Return the mean so far."""
        return self.total / self.count

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the `metric_state` of another one."""
        self.total, self.count = state["total"].to(self.total.device), state["count"].to(self.count.device)
        self._update_count = int(self.count)
