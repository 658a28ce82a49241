"""Pictures of fixed validation patches through time: image, reference, prediction."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from segplan.dashboards.guarded import GuardedLogger
from segplan.dashboards.patches import FixedPatch, predicted_labels
from segplan.dashboards.usage import Usage
from segplan.dataset import Labels
from segplan.reporting import write_overlay


class Pictures(pl.Callback):
    """Tells dashboards what Lightning does not: use of the machine every epoch, pictures of patches now and then.

    Draws no random number and changes no state, so weights are those of a training without it.

    Args:
        loggers: the dashboards.
        patches: makes the patches, when the first picture is due.
        labels: what the network's heads stand for.
        folder: where the pictures are written.
        every: epochs between two pictures; the first and the last epoch always have one. 0: none.
    """

    def __init__(
        self,
        loggers: Sequence[GuardedLogger],
        patches: Callable[[], Sequence[FixedPatch]],
        labels: Labels,
        folder: Path,
        every: int = 25,
    ) -> None:
        self._loggers, self._labels, self._folder, self._every = loggers, labels, folder, every
        self._make_patches = patches
        self._patches: Sequence[FixedPatch] | None = None
        self._usage = Usage()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Send the use of the machine, and pictures where they are due."""
        if not trainer.is_global_zero:
            return
        used = self._usage.measure()
        for logger in self._loggers:
            logger.log_metrics(used, trainer.global_step)
        epoch = trainer.current_epoch + 1
        if self._every and (epoch in (1, trainer.max_epochs) or epoch % self._every == 0):
            try:
                self._draw(trainer, pl_module, epoch)
            except Exception as error:
                # As with all of a dashboard: what goes wrong must not end a training.
                self._every = 0
                sys.stderr.write(f"segplan: no more pictures ({type(error).__name__}: {error}); training goes on\n")

    def _draw(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> None:
        if self._patches is None:
            self._patches = self._make_patches()
        network = module.get_submodule("network")
        was_training = network.training
        network.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            outputs = [network(patch.batch.to(module.device)) for patch in self._patches]
        network.train(was_training)
        names = {number: name for name, value in self._labels.names.items() for number in _numbers(value)}
        for patch, output in zip(self._patches, outputs, strict=True):
            logits = output if isinstance(output, torch.Tensor) else output[0]
            predicted = predicted_labels(logits.cpu(), self._labels, is_flat=patch.is_flat)
            path = self._folder / patch.case / f"epoch_{epoch:05d}.png"
            title = f"{patch.case} · epoch {epoch}"
            image = _displayable(patch.image)
            write_overlay(path, image, patch.labels, predicted, patch.spacing, names=names, title=title)
            for logger in self._loggers:
                logger.log_picture(f"patches/{patch.case}", path, trainer.global_step)


def _numbers(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """A plain label's number; a region's labels have no name of their own."""
    return (value,) if isinstance(value, int) else value if len(value) == 1 else ()


def _displayable(image: np.ndarray) -> np.ndarray:
    """The patch with colours from 0 to 255 where it is a colour picture, which normalisation has moved."""
    if image.shape[:2] != (3, 1):
        return image
    low, high = np.percentile(image, (0.5, 99.5))
    scaled: np.ndarray = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) * 255
    return scaled
