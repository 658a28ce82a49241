"""Before a training starts: can its folder be written, and has the disk room for what it will save?"""

import shutil
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch

from segplan.errors import StorageError
from segplan.imaging import TEMPORARY_PREFIX
from segplan.training.adan import Adan

_SPARE = 1.1  # metrics, label maps and file systems take some too


def check_disk(folder: Path, module: pl.LightningModule) -> None:
    """Refuse a training whose checkpoints could not be saved.

    Args:
        folder: where its checkpoints go; it is made.
        module: what they hold.

    Raises:
        StorageError: the folder cannot be written, or too little space is left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY_PREFIX) as probe:
            probe.write(b"segplan")
    except OSError as error:
        trouble = StorageError.from_os_error(error, folder)
        if trouble is None:
            raise
        raise trouble from error
    there = sum(path.stat().st_size for path in folder.glob("*.ckpt"))
    missing = int(_SPARE * space_needed(module)) - there
    free = shutil.disk_usage(folder).free
    if free < missing:
        what = f"its checkpoints need {missing / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free on the disk"
        raise StorageError(what, folder, "Free some space, or choose another folder (workspace=).")


def space_needed(module: pl.LightningModule) -> int:
    """Bytes of last, best and final checkpoint, of two files of weights, and of one more checkpoint being written."""
    weights: int = sum(tensor.nbytes for tensor in module.state_dict().values())
    trained: int = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    copies = 2 if getattr(module, "average", None) is not None else 1  # an average of the weights is kept beside them
    whole = copies * weights + _states_per_parameter(module) * trained
    return 3 * whole + 3 * weights


def _states_per_parameter(module: pl.LightningModule) -> int:
    """Tensors of a parameter's size that the optimiser keeps for each: momentum, or Adam's or Adan's means."""
    optimizer = module.configure_optimizers()
    if not isinstance(optimizer, torch.optim.Optimizer):
        return 2
    if isinstance(optimizer, Adan):
        return 4
    if "betas" in optimizer.defaults:
        return 3 if optimizer.defaults.get("amsgrad") else 2
    return 1 if optimizer.defaults.get("momentum", 1) else 0
