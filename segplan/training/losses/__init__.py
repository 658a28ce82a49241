"""Losses on logits (B, K, *spatial) and label maps (B, *spatial) of any integer type: an overlap and a voxel-wise term.

Sums over space are in float32 (float64 for float64 logits) whatever the precision around them. Under DDP every sum runs
over all ranks, so that the loss and its gradient are those of one process with the whole batch.
"""

from segplan.training.losses.compound import (
    DiceBCELoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceTopKLoss,
    TverskyCELoss,
    membership_table,
)
from segplan.training.losses.overlap import soft_dice
from segplan.training.losses.ranks import sum_over_ranks
from segplan.training.losses.voxelwise import (
    binary_cross_entropy,
    cross_entropy,
    focal_cross_entropy,
    top_k_cross_entropy,
)

__all__ = [
    "DiceBCELoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceTopKLoss",
    "TverskyCELoss",
    "binary_cross_entropy",
    "cross_entropy",
    "focal_cross_entropy",
    "membership_table",
    "soft_dice",
    "sum_over_ranks",
    "top_k_cross_entropy",
]
