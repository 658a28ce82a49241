"""The label -1 (outside the nonzero mask, or beyond the image) at the end of a pipeline."""

from torch import Tensor


def mask_outside(image: Tensor, labels: Tensor, use_mask: tuple[bool, ...]) -> Tensor:
    """Set `image` (C, *spatial) to 0 where label channel 0 is negative, in channels normalised within the mask.

    Interpolation, noise and intensity curves change the outside, which such a normalisation left at exactly 0.
    """
    outside = labels[0] < 0
    for channel, is_masked in enumerate(use_mask):
        if is_masked:
            image[channel].masked_fill_(outside, 0)
    return image


def outside_to_background(labels: Tensor) -> Tensor:
    """Replace the label -1 in `labels` by the background, 0, in place."""
    return labels.clamp_(min=0)
