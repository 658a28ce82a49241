"""Training under Lightning: losses, schedules, the module, precision, checkpoints and what is shown of it."""

from segplan.training.adan import Adan
from segplan.training.checkpoint_io import SafeCheckpointIO, load_checkpoint
from segplan.training.deep_supervision import DeepSupervisionLoss, deep_supervision_weights, downsample_labels
from segplan.training.finetune import transfer
from segplan.training.losses import DiceBCELoss, DiceCELoss, DiceFocalLoss, DiceTopKLoss, TverskyCELoss
from segplan.training.module import SegmentationModule
from segplan.training.patch_dice import PatchDice
from segplan.training.precision import auto_precision
from segplan.training.schedule import CosineDecay, PlateauDecay, PolynomialDecay

__all__ = [
    "Adan",
    "CosineDecay",
    "DeepSupervisionLoss",
    "DiceBCELoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceTopKLoss",
    "PatchDice",
    "PlateauDecay",
    "PolynomialDecay",
    "SafeCheckpointIO",
    "SegmentationModule",
    "TverskyCELoss",
    "auto_precision",
    "deep_supervision_weights",
    "downsample_labels",
    "load_checkpoint",
    "transfer",
]
