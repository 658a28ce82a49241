"""The same loss at several resolutions: weights by nnU-Net's rule, label maps downsampled on the device."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def deep_supervision_weights(resolutions: int) -> tuple[float, ...]:
    """Weights of the resolutions, highest first: halved from one to the next, the lowest 0, of sum 1.

    Args:
        resolutions: heads of the network, one fewer than its stages. A single one has weight 1.
    """
    raw = [0.5**level for level in range(resolutions)]
    if resolutions > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


def downsample_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B, *spatial) at another `size`, each voxel's the one at its centre (nearest-exact)."""
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    # Through float32, exact for labels below 2**24: torch interpolates no integers but uint8.
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].to(labels.dtype)


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of a loss over the network's resolutions.

    Args:
        loss: takes logits (B, K, *spatial) and labels (B, *spatial).
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Sequence[Tensor] | Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: (B, K, *spatial) of each resolution, highest first; or of the highest alone, whose loss is returned.
            labels: (B, *spatial) at the highest resolution.
        """
        outputs = [logits] if isinstance(logits, Tensor) else list(logits)
        terms = [
            weight * self.loss(output, downsample_labels(labels, output.shape[2:]))
            for weight, output in zip(deep_supervision_weights(len(outputs)), outputs, strict=True)
            if weight > 0
        ]
        total: Tensor = sum(terms[1:], terms[0])
        return total
