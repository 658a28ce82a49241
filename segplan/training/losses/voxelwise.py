"""Terms that weigh every voxel: cross-entropy and its variants. A mask leaves voxels out; ranks count as one batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from segplan.training.losses.ranks import sum_over_ranks, world_size

_LEAST = 1e-7  # the resolution of float32 below 1


def cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor | None, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy averaged over the voxels that count, each with the weight of its class.

    Args:
        logits: (B, K, *spatial).
        labels: int64 (B, *spatial), a class everywhere.
        mask: bool (B, *spatial), False where a voxel does not count; None where all do.
        class_weights: (K,); None weighs all alike.
    """
    # torch's own mean is NaN where all voxels are of classes that weigh nothing.
    if mask is None and class_weights is None and world_size() == 1:
        return F.cross_entropy(logits, labels)
    per_voxel = F.cross_entropy(logits, labels, weight=class_weights, reduction="none")
    weights = torch.ones_like(per_voxel) if class_weights is None else class_weights[labels]
    if mask is not None:
        per_voxel, weights = per_voxel * mask, weights * mask
    # Divided by at least a little: without a valid voxel the term is 0, and no device has to be asked first.
    least = 1.0 if class_weights is None else 1e-8
    return sum_over_ranks(per_voxel.sum()) / sum_over_ranks(weights.sum()).clamp_min(least)


def focal_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor | None, gamma: float) -> Tensor:
    """Cross-entropy times (1 - p) ** gamma, p being the probability of the right class; 0 is plain cross-entropy.

    Source: Lin et al., Focal loss for dense object detection, 2017. Arguments as in `cross_entropy`.
    """
    per_voxel = F.cross_entropy(logits, labels, reduction="none")
    # Above 0, where the gradient of a root (gamma < 1) is infinite.
    return _mean((1 - torch.exp(-per_voxel)).clamp_min(_LEAST) ** gamma * per_voxel, mask)


def top_k_cross_entropy(
    logits: Tensor, labels: Tensor, mask: Tensor | None, percent: float, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy averaged over the hardest `percent` of the batch's voxels; a rank's own, where there are several.

    Arguments as in `cross_entropy`. Voxels that do not count are hardest nowhere, but part of the percentage: no device
    has to be asked for their number.
    """
    per_voxel = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if mask is not None:
        per_voxel = per_voxel * mask
    count = max(1, int(per_voxel.numel() * percent / 100))
    return _mean(per_voxel.flatten().topk(count, sorted=False).values, None)


def binary_cross_entropy(logits: Tensor, target: Tensor, mask: Tensor | None, mean_over_regions: bool) -> Tensor:
    """Binary cross-entropy of independent channels.

    Args:
        logits: (B, R, *spatial).
        target: bool (B, R, *spatial).
        mask: bool (B, 1, *spatial) or None.
        mean_over_regions: with a mask, divide by voxels × regions, not by voxels alone.
    """
    if mask is None and world_size() == 1:
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))
    per_voxel = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    if mask is None:
        return _mean(per_voxel, None)
    regions = logits.shape[1] if mean_over_regions else 1
    counted = sum_over_ranks(mask.sum(dtype=logits.dtype)).clamp_min(1) * regions
    return sum_over_ranks((per_voxel * mask).sum()) / counted


def _mean(per_voxel: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        counted = per_voxel.new_full((), per_voxel.numel())  # new_tensor would wait for the device
    else:
        per_voxel, counted = per_voxel * mask, mask.sum(dtype=per_voxel.dtype)
    return sum_over_ranks(per_voxel.sum()) / sum_over_ranks(counted).clamp_min(1)
