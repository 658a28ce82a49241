"""What an epoch's end decides, before anything of the epoch is shown, written or saved."""

import pytorch_lightning as pl

from segplan.training.module import SegmentationModule


class EpochEnd(pl.Callback):
    """Lets the module conclude its epoch; stands first, since Lightning calls modules after all callbacks."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the losses, let the schedule see them."""
        if isinstance(pl_module, SegmentationModule):
            pl_module.conclude_epoch()
