"""How each channel's intensities are normalised: by the channel's name in dataset.json, as nnU-Net does."""

from collections.abc import Sequence

from segplan.planning.settings import PlannerSettings

BY_CHANNEL_NAME = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}
"""Casefolded channel name to scheme; every other name is z-scored."""

MEANING = {
    "ct": "clipped to the foreground's 0.5 to 99.5 percentiles, then z-scored with the dataset's mean and std",
    "none": "left as they are",
    "zscore": "z-scored case by case",
    "rescale_to_0_1": "rescaled from minimum..maximum to 0..1",
    "rgb_to_0_1": "divided by 255",
}


def normalization_schemes(channel_names: Sequence[str]) -> tuple[str, ...]:
    """The scheme of each channel: ct, zscore, none, rescale_to_0_1 or rgb_to_0_1. Only whole names match."""
    return tuple(BY_CHANNEL_NAME.get(str(name).casefold(), "zscore") for name in channel_names)


def mask_flags(schemes: Sequence[str], median_relative_size: float, settings: PlannerSettings) -> tuple[bool, ...]:
    """Whether a channel's z-score looks at the non-zero mask only: if cropping to it removes much of the image."""
    cropped = median_relative_size < settings.nonzero_mask_fraction
    return tuple(cropped and scheme == "zscore" for scheme in schemes)
