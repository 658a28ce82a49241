"""Early stopping that ends like a whole training: the learning rate runs out before it stops."""

from typing import Any, Literal

import pytorch_lightning as pl

from segplan.errors import ConfigError
from segplan.training.module import SegmentationModule

_MONITORS = ("score", "train_loss", "val_loss")


class EarlyStopping(pl.Callback):
    """When a value has made no progress for some epochs, lowers the learning rate to zero in a straight line and stops.

    Args:
        patience: epochs without progress; None: off.
        cooldown_epochs: epochs in which the rate falls; 0 stops at once.
        monitor: score (what `best` is chosen by: Dice over whole cases where it is measured, else the moving average
            of the patch Dice), train_loss or val_loss.
        min_delta: smallest change that is progress.

    Raises:
        ConfigError: a value cannot work.
    """

    def __init__(
        self,
        patience: int | None = None,
        cooldown_epochs: int = 25,
        monitor: Literal["score", "train_loss", "val_loss"] = "score",
        min_delta: float = 0.0,
    ) -> None:
        where = "callbacks.early_stopping"
        if patience is not None and (isinstance(patience, bool) or not isinstance(patience, int) or patience < 1):
            raise ConfigError(f"{patience} is no number of epochs", f"{where}.patience", "Give 1 or more, or null.")
        if isinstance(cooldown_epochs, bool) or not isinstance(cooldown_epochs, int) or cooldown_epochs < 0:
            raise ConfigError(
                f"{cooldown_epochs} is no number of epochs", f"{where}.cooldown_epochs", "Give 0 or more."
            )
        if monitor not in _MONITORS:
            raise ConfigError(f"{monitor} is unknown", f"{where}.monitor", f"Use one of {', '.join(_MONITORS)}.")
        self.patience, self.cooldown_epochs, self.monitor, self.min_delta = (
            patience,
            cooldown_epochs,
            monitor,
            min_delta,
        )
        self._best: float | None = None
        self._best_epoch = -1
        self._cooling_since: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self._best, "best_epoch": self._best_epoch, "cooling_since": self._cooling_since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self._best, self._best_epoch = state_dict["best"], state_dict["best_epoch"]
        self._cooling_since = state_dict["cooling_since"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the factor also where an epoch is resumed in its middle."""
        self._set_factor(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the factor before the module sets the rate."""
        self._set_factor(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for progress; begin the cool-down, or end it."""
        if self.patience is None or not isinstance(pl_module, SegmentationModule):
            return
        epoch = trainer.current_epoch
        if self._cooling_since is None:
            self._observe(epoch, pl_module, self.patience)
        if self._cooling_since is not None and epoch + 1 - self._cooling_since >= self.cooldown_epochs:
            pl_module.end(f"{self.monitor} has made no progress for {self.patience} epochs")

    def _observe(self, epoch: int, module: SegmentationModule, patience: int) -> None:
        """Note progress, or begin the cool-down; an epoch without a value says nothing."""
        value = module.score
        if self.monitor != "score":
            loss = module.train_loss if self.monitor == "train_loss" else module.val_loss
            value = -float(loss.compute())
        if value is None:
            return
        if self._best is None or value > self._best + self.min_delta:
            self._best, self._best_epoch = value, epoch
        elif epoch - self._best_epoch >= patience:
            self._cooling_since = epoch + 1

    def _set_factor(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._cooling_since is not None and isinstance(module, SegmentationModule):
            done = trainer.current_epoch - self._cooling_since
            module.cooldown = max(0.0, 1 - done / self.cooldown_epochs) if self.cooldown_epochs else 0.0
