"""Dice with cross-entropy for labels, Dice with binary cross-entropy for regions, as in nnU-Net 2.8.1.

Both take logits (B, K, *spatial) and a label map (B, *spatial) of any integer type; sums over space are in float32
whatever the precision around them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segplan.errors import ConfigError


def soft_dice(probabilities: Tensor, target: Tensor, mask: Tensor | None, batch_dice: bool, smooth: float) -> Tensor:
    """Mean soft Dice over channels (and samples): (2 I + s) / (P + G + s), with I, P and G summed over space.

    Args:
        probabilities: float32 (B, K, *spatial).
        target: bool (B, K, *spatial).
        mask: bool (B, 1, *spatial), False where a voxel does not count; None where all do.
        batch_dice: sum over the samples of the batch before dividing, not after.
        smooth: s, which makes an absent class without predicted mass a perfect one.
    """
    if mask is not None:
        probabilities, target = probabilities * mask, target & mask
    axes = tuple(range(2, probabilities.ndim))
    intersection = (probabilities * target).sum(axes)
    predicted, reference = probabilities.sum(axes), target.sum(axes, dtype=torch.float32)
    if batch_dice:
        intersection, predicted, reference = intersection.sum(0), predicted.sum(0), reference.sum(0)
    return ((2 * intersection + smooth) / (predicted + reference + smooth).clamp_min(1e-8)).mean()


class DiceCELoss(nn.Module):
    """Cross-entropy minus soft Dice of the foreground labels.

    Args:
        batch_dice: pool the batch before taking Dice; steadier for small or rare classes, blind to single cases.
        smooth: smoothing of Dice.
        dice_weight: weight of the Dice term.
        ce_weight: weight of the cross-entropy.
        ignore_label: label whose voxels count in neither term.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = False,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_dice, self.smooth = batch_dice, smooth
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of `logits` (B, K, *spatial) against `labels` (B, *spatial)."""
        labels = labels.long()
        mask = None if self.ignore_label is None else labels != self.ignore_label
        known = labels if mask is None else labels * mask
        logits = logits.float()
        # The softmax is taken twice, here and inside: deriving one from the other saves little and rounds differently
        # from nnU-Net, whose training the same batches then follow bit for bit.
        if mask is None:
            cross_entropy = F.cross_entropy(logits, known)
        else:
            # Divided by at least 1: without a valid voxel the term is 0, and no device has to be asked first.
            per_voxel = F.cross_entropy(logits, known, reduction="none")
            cross_entropy = (per_voxel * mask).sum() / mask.sum().clamp_min(1)
        classes = torch.arange(1, logits.shape[1], device=logits.device).view(-1, *[1] * (logits.ndim - 2))
        dice = soft_dice(
            logits.softmax(dim=1)[:, 1:],
            known[:, None] == classes,
            None if mask is None else mask[:, None],
            self.batch_dice,
            self.smooth,
        )
        return self.ce_weight * cross_entropy - self.dice_weight * dice


class DiceBCELoss(nn.Module):
    """Binary cross-entropy minus soft Dice of regions, which may overlap.

    Args:
        regions: labels of each region, in the order of the network's heads.
        batch_dice: pool the batch before taking Dice.
        smooth: smoothing of Dice.
        dice_weight: weight of the Dice term.
        ce_weight: weight of the binary cross-entropy.
        ignore_label: label whose voxels count in neither term.
        mean_over_regions: with an ignore label nnU-Net 2.8.1 divides the binary cross-entropy by the voxels, not by
            voxels × regions, so that it weighs as many times more as there are regions; True divides by both.
    """

    membership: Tensor

    def __init__(
        self,
        regions: Sequence[Sequence[int]],
        *,
        batch_dice: bool = False,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        ignore_label: int | None = None,
        mean_over_regions: bool = False,
    ) -> None:
        super().__init__()
        if not regions:
            raise ConfigError("DiceBCELoss got no regions", remedy="Use loss=dice_ce for a dataset without regions.")
        self.batch_dice, self.smooth = batch_dice, smooth
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.ignore_label, self.mean_over_regions = ignore_label, mean_over_regions
        table = membership_table(regions, ignore_label)
        self.register_buffer("membership", table, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of `logits` (B, R, *spatial) against `labels` (B, *spatial)."""
        labels = labels.long()
        target = self.membership[labels].movedim(-1, 1)
        logits = logits.float()
        per_voxel = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
        mask = None if self.ignore_label is None else (labels != self.ignore_label)[:, None]
        if mask is None:
            entropy = per_voxel.mean()
        else:
            counted = mask.sum().clamp_min(1) * (logits.shape[1] if self.mean_over_regions else 1)
            entropy = (per_voxel * mask).sum() / counted
        dice = soft_dice(logits.sigmoid(), target, mask, self.batch_dice, self.smooth)
        return self.ce_weight * entropy - self.dice_weight * dice


def membership_table(regions: Sequence[Sequence[int]], ignore_label: int | None = None) -> Tensor:
    """Bool table (labels, regions): whether a label belongs to a region; the ignore label belongs to none."""
    highest = max(max(region) for region in regions)
    table = torch.zeros(max(highest, ignore_label or 0) + 1, len(regions), dtype=torch.bool)
    for column, region in enumerate(regions):
        table[list(region), column] = True
    return table
