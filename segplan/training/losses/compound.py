"""The losses that a configuration names: an overlap term and a voxel-wise one, as in nnU-Net 2.8.1, and variants."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segplan.errors import ConfigError
from segplan.training.losses.overlap import soft_dice, soft_tversky
from segplan.training.losses.voxelwise import (
    binary_cross_entropy,
    cross_entropy,
    focal_cross_entropy,
    top_k_cross_entropy,
)


class DiceCELoss(nn.Module):
    """Cross-entropy minus soft Dice of the foreground labels.

    Args:
        batch_dice: pool the batch before taking Dice; steadier for small or rare classes, blind to single cases.
        smooth: smoothing of Dice.
        dice_weight: weight of the Dice term; 0 leaves it out.
        ce_weight: weight of the cross-entropy; 0 leaves it out.
        class_weights: of the cross-entropy, one a class with background first; None weighs all alike.
        ignore_label: label whose voxels count in neither term.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        batch_dice: bool = False,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_dice, self.smooth = batch_dice, smooth
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.ignore_label = ignore_label
        self.register_buffer("class_weights", _class_weights(class_weights), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of `logits` (B, K, *spatial) against `labels` (B, *spatial)."""
        logits, labels, mask = _prepared(logits, labels, self.ignore_label)
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        # The softmax is taken twice, here and inside: deriving one from the other saves little and rounds differently
        # from nnU-Net, whose training the same batches then follow bit for bit.
        terms = []
        if self.ce_weight:
            terms.append(self.ce_weight * cross_entropy(logits, labels, mask, weights))
        if self.dice_weight:
            terms.append(-self.dice_weight * _foreground_dice(logits, labels, mask, self.batch_dice, self.smooth))
        return _sum(terms, logits)


class DiceTopKLoss(nn.Module):
    """Cross-entropy of the hardest voxels minus soft Dice: where easy background drowns what is hard.

    Args:
        batch_dice: see `DiceCELoss`.
        smooth: smoothing of Dice.
        dice_weight: weight of the Dice term; 0 leaves it out.
        ce_weight: weight of the cross-entropy.
        top_k_percent: share of the voxels that count, in percent.
        label_smoothing: share of the target's probability that goes to all classes alike.
        ignore_label: label whose voxels count in neither term.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = False,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        top_k_percent: float = 10.0,
        label_smoothing: float = 0.0,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < top_k_percent <= 100:
            raise ConfigError(
                f"{top_k_percent} is no percentage", "loss.top_k_percent", "Give more than 0, at most 100."
            )
        self.batch_dice, self.smooth = batch_dice, smooth
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.top_k_percent, self.label_smoothing = top_k_percent, label_smoothing
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of `logits` (B, K, *spatial) against `labels` (B, *spatial)."""
        logits, labels, mask = _prepared(logits, labels, self.ignore_label)
        hardest = top_k_cross_entropy(logits, labels, mask, self.top_k_percent, self.label_smoothing)
        terms = [self.ce_weight * hardest]
        if self.dice_weight:
            terms.append(-self.dice_weight * _foreground_dice(logits, labels, mask, self.batch_dice, self.smooth))
        return _sum(terms, logits)


class DiceFocalLoss(nn.Module):
    """Focal cross-entropy minus soft Dice: voxels that are already right count less.

    Args:
        batch_dice: see `DiceCELoss`.
        smooth: smoothing of Dice.
        dice_weight: weight of the Dice term; 0 leaves it out.
        focal_weight: weight of the focal term.
        gamma: 0 is plain cross-entropy; larger looks at the hard voxels alone.
        ignore_label: label whose voxels count in neither term.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = False,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        focal_weight: float = 1.0,
        gamma: float = 2.0,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise ConfigError(f"{gamma} is below 0", "loss.gamma", "Give 0 or more.")
        self.batch_dice, self.smooth = batch_dice, smooth
        self.dice_weight, self.focal_weight, self.gamma = dice_weight, focal_weight, gamma
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of `logits` (B, K, *spatial) against `labels` (B, *spatial)."""
        logits, labels, mask = _prepared(logits, labels, self.ignore_label)
        terms = [self.focal_weight * focal_cross_entropy(logits, labels, mask, self.gamma)]
        if self.dice_weight:
            terms.append(-self.dice_weight * _foreground_dice(logits, labels, mask, self.batch_dice, self.smooth))
        return _sum(terms, logits)


class TverskyCELoss(nn.Module):
    """Cross-entropy minus the soft Tversky index of the foreground labels, which weighs misses and false alarms apart.

    Args:
        batch_dice: pool the batch before taking the index.
        smooth: smoothing of the index.
        tversky_weight: weight of the index.
        ce_weight: weight of the cross-entropy; 0 leaves it out.
        alpha: weight of false positives.
        beta: weight of false negatives.
        ignore_label: label whose voxels count in neither term.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = False,
        smooth: float = 1e-5,
        tversky_weight: float = 1.0,
        ce_weight: float = 1.0,
        alpha: float = 0.3,
        beta: float = 0.7,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        if min(alpha, beta) < 0 or alpha + beta == 0:
            raise ConfigError(f"alpha {alpha} and beta {beta} cannot both weigh nothing, nor be negative", "loss")
        self.batch_dice, self.smooth = batch_dice, smooth
        self.tversky_weight, self.ce_weight = tversky_weight, ce_weight
        self.alpha, self.beta = alpha, beta
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of `logits` (B, K, *spatial) against `labels` (B, *spatial)."""
        logits, labels, mask = _prepared(logits, labels, self.ignore_label)
        probabilities, target = _foreground(logits, labels)
        index = soft_tversky(
            probabilities, target, _channel(mask), self.batch_dice, self.smooth, alpha=self.alpha, beta=self.beta
        )
        terms = [-self.tversky_weight * index]
        if self.ce_weight:
            terms.append(self.ce_weight * cross_entropy(logits, labels, mask))
        return _sum(terms, logits)


class DiceBCELoss(nn.Module):
    """Binary cross-entropy minus soft Dice of regions, which may overlap.

    Args:
        regions: labels of each region, in the order of the network's heads.
        batch_dice: pool the batch before taking Dice.
        smooth: smoothing of Dice.
        dice_weight: weight of the Dice term; 0 leaves it out.
        ce_weight: weight of the binary cross-entropy; 0 leaves it out.
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
        logits = _at_least_float32(logits)
        mask = None if self.ignore_label is None else (labels != self.ignore_label)[:, None]
        terms = []
        if self.ce_weight:
            terms.append(self.ce_weight * binary_cross_entropy(logits, target, mask, self.mean_over_regions))
        if self.dice_weight:
            terms.append(-self.dice_weight * soft_dice(logits.sigmoid(), target, mask, self.batch_dice, self.smooth))
        return _sum(terms, logits)


def membership_table(regions: Sequence[Sequence[int]], ignore_label: int | None = None) -> Tensor:
    """Bool table (labels, regions): whether a label belongs to a region; the ignore label belongs to none."""
    highest = max(max(region) for region in regions)
    table = torch.zeros(max(highest, ignore_label or 0) + 1, len(regions), dtype=torch.bool)
    for column, region in enumerate(regions):
        table[list(region), column] = True
    return table


def _prepared(logits: Tensor, labels: Tensor, ignore_label: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits in full precision, a class for every voxel, and which voxels count (None: all)."""
    labels = labels.long()
    mask = None if ignore_label is None else labels != ignore_label
    return _at_least_float32(logits), labels if mask is None else labels * mask, mask


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _foreground(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    classes = torch.arange(1, logits.shape[1], device=logits.device).view(-1, *[1] * (logits.ndim - 2))
    return logits.softmax(dim=1)[:, 1:], labels[:, None] == classes


def _foreground_dice(logits: Tensor, labels: Tensor, mask: Tensor | None, batch_dice: bool, smooth: float) -> Tensor:
    probabilities, target = _foreground(logits, labels)
    return soft_dice(probabilities, target, _channel(mask), batch_dice, smooth)


def _channel(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None]


def _sum(terms: Sequence[Tensor], logits: Tensor) -> Tensor:
    """The sum of the terms; where all are left out, 0 with a gradient."""
    return sum(terms[1:], terms[0]) if terms else 0 * logits.sum()


def _class_weights(given: Sequence[float] | None) -> Tensor | None:
    if given is None:
        return None
    try:
        weights = torch.tensor([float(weight) for weight in given], dtype=torch.float32)
    except (TypeError, ValueError):
        weights = torch.zeros(0)
    if not (weights >= 0).all() or not weights.isfinite().all() or not weights.sum() > 0:
        raise ConfigError(
            f"{list(given)} are no weights", "loss.class_weights", "Give numbers of at least 0, not all 0."
        )
    return weights
