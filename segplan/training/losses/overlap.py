"""Soft Dice and its asymmetric form, soft Tversky."""

import torch
from torch import Tensor

from segplan.training.losses.ranks import sum_over_ranks, world_size


def soft_dice(probabilities: Tensor, target: Tensor, mask: Tensor | None, batch_dice: bool, smooth: float) -> Tensor:
    """Mean soft Dice over channels (and samples): (2 I + s) / (P + G + s), with I, P and G summed over space.

    Args:
        probabilities: float32 (B, K, *spatial).
        target: bool (B, K, *spatial).
        mask: bool (B, 1, *spatial), False where a voxel does not count; None where all do.
        batch_dice: sum over the samples of the batch (of all ranks) before dividing, not after.
        smooth: s, which makes an absent class without predicted mass a perfect one.
    """
    intersection, predicted, reference = _sums(probabilities, target, mask, batch_dice)
    return _mean((2 * intersection + smooth) / (predicted + reference + smooth).clamp_min(1e-8), batch_dice)


def soft_tversky(
    probabilities: Tensor,
    target: Tensor,
    mask: Tensor | None,
    batch_dice: bool,
    smooth: float,
    *,
    alpha: float,
    beta: float,
) -> Tensor:
    """Mean soft Tversky index: (I + s) / (I + alpha FP + beta FN + s); alpha = beta = 0.5 is Dice with s doubled.

    Source: Salehi et al., Tversky loss function for image segmentation using 3D fully convolutional networks, 2017.

    Args:
        probabilities: see `soft_dice`, as all that is not named here.
        target: bool (B, K, *spatial).
        mask: bool (B, 1, *spatial) or None.
        batch_dice: sum over the samples before dividing.
        smooth: s.
        alpha: weight of false positives.
        beta: weight of false negatives; above `alpha` small structures are missed less and over-segmented more.
    """
    intersection, predicted, reference = _sums(probabilities, target, mask, batch_dice)
    errors = alpha * (predicted - intersection) + beta * (reference - intersection)
    return _mean((intersection + smooth) / (intersection + errors + smooth).clamp_min(1e-8), batch_dice)


def _sums(
    probabilities: Tensor, target: Tensor, mask: Tensor | None, batch_dice: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, predicted and reference mass: (B, K), or (K,) over the batch of all ranks."""
    if mask is not None:
        probabilities, target = probabilities * mask, target & mask
    axes = tuple(range(2, probabilities.ndim))
    intersection = (probabilities * target).sum(axes)
    predicted, reference = probabilities.sum(axes), target.sum(axes, dtype=probabilities.dtype)
    if not batch_dice:
        return intersection, predicted, reference
    sums = torch.stack([intersection.sum(0), predicted.sum(0), reference.sum(0)])
    intersection, predicted, reference = sum_over_ranks(sums).unbind()
    return intersection, predicted, reference


def _mean(scores: Tensor, batch_dice: bool) -> Tensor:
    if batch_dice or world_size() == 1:
        return scores.mean()
    total = sum_over_ranks(scores.sum())
    return total / sum_over_ranks(scores.new_full((), scores.numel()))
