"""Keep a part of the network as it is, for all of the training or its first epochs."""

from collections.abc import Sequence

import pytorch_lightning as pl

from segplan.training.finetune import matching


class Freezing(pl.Callback):
    """Takes no gradients of some weights, which also saves their time and memory.

    Args:
        chosen: parts of the network (encoder, decoder, heads, other) or patterns of names.
        epochs: for how many; None: for all.
    """

    def __init__(self, chosen: Sequence[str], epochs: int | None = None) -> None:
        self.chosen, self.epochs = tuple(chosen), epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze also where an epoch is resumed in its middle; not earlier: DDP must know all weights."""
        self._apply(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze, or thaw when the epochs are over."""
        self._apply(trainer, pl_module)

    def _apply(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        frozen = self.epochs is None or trainer.current_epoch < self.epochs
        network = module.get_submodule("network")
        names = set(matching(network, self.chosen))
        for name, parameter in network.named_parameters():
            if name in names:
                parameter.requires_grad_(not frozen)
                if frozen:
                    parameter.grad = None
