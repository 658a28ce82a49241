"""Dice over the random patches of validation: quick, noisy, and biased by foreground sampling; never the true Dice."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from segplan.training.losses import membership_table


class PatchDice(Metric):
    """Dice of each target over all voxels of all patches since the last reset; NaN for one that never occurs.

    Args:
        targets: label values of each evaluated label or region, by name, in the order of the network's heads
            (without background).
        regions: whether heads are regions (independent, above probability 0.5) or labels (the largest wins).
        ignore_label: label whose voxels do not count.
    """

    full_state_update = False
    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor
    membership: Tensor

    def __init__(self, targets: Mapping[str, Sequence[int]], regions: bool, ignore_label: int | None = None) -> None:
        super().__init__()
        self.names = tuple(targets)
        self.regions = regions
        self.ignore_label = ignore_label
        self.register_buffer("membership", membership_table(list(targets.values()), ignore_label), persistent=False)
        for state in ("true_positives", "false_positives", "false_negatives"):
            self.add_state(state, torch.zeros(len(targets), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count `logits` (B, K, *spatial) against `labels` (B, *spatial)."""
        reference = self.membership[labels.long()].movedim(-1, 1)
        predicted = logits > 0 if self.regions else self.membership[logits.argmax(1)].movedim(-1, 1)
        if self.ignore_label is not None:
            predicted = predicted & (labels != self.ignore_label)[:, None]
        axes = (0, *range(2, logits.ndim))
        both = (predicted & reference).sum(axes)
        self.true_positives += both
        self.false_positives += predicted.sum(axes) - both
        self.false_negatives += reference.sum(axes) - both

    def compute(self) -> Tensor:
        """Return Dice of each target, float64; NaN where there was neither a reference nor a predicted voxel."""
        errors = self.false_positives + self.false_negatives
        return 2 * self.true_positives.double() / (2 * self.true_positives + errors)
