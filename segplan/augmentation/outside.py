"""The label -1 (outside the nonzero mask, or beyond the image) at the end of a pipeline."""

from torch import Tensor


def mask_outside(image: Tensor, labels: Tensor, use_mask: tuple[bool, ...]) -> Tensor:
    """Return `image` (C, *spatial) with 0 where label channel 0 is negative, in channels normalised within the mask.

    Interpolation, noise and intensity curves change the outside, which such a normalisation left at exactly 0.
    """
    outside = labels[0] < 0
    masked = image.clone()
    for channel, is_masked in enumerate(use_mask):
        if is_masked:
            masked[channel].masked_fill_(outside, 0)
    return masked


def outside_to_background(labels: Tensor) -> Tensor:
    """Return `labels` with the label -1 replaced by the background, 0."""
    return labels.clamp(min=0)
