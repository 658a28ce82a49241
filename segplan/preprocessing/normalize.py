"""Intensity normalisation of one channel, in place, before resampling (the schemes and constants of nnU-Net 2.8.1)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import ImageError, PlanError

SMALLEST_DIVISOR = 1e-8
"""Keeps the division of a constant channel finite."""

_CHUNK = 1 << 13
"""Values looked at together: so few that their memory is used again, not asked of the system each time."""


def mean_and_std(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and population standard deviation in float64, without a float64 copy of the whole array."""
    if values.size == 0:
        return 0.0, 0.0
    mean = sum(float(chunk.sum()) for chunk in _chunks(values)) / values.size
    # Not by np.dot, whose threads would take the other workers' cores.
    squares = sum(float(np.square(chunk - mean).sum()) for chunk in _chunks(values))
    return mean, float(np.sqrt(squares / values.size))


def _chunks(values: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
    """Parts of an array of any strides as float64, in the order of memory; each is gone when the next is asked for."""
    flags: Any = ["external_loop", "buffered"]
    yield from np.nditer(values, flags, ["readonly"], [np.float64], casting="safe", buffersize=_CHUNK)


def normalize_channel(
    channel: NDArray[np.float32],
    scheme: str,
    mask: NDArray[np.bool_] | None = None,
    intensities: Mapping[str, float] | None = None,
) -> None:
    """Normalise one channel in place.

    Args:
        channel: (Z, Y, X), of any strides.
        scheme: one of `segplan.preprocessing.plan.NORMALIZATIONS`.
        mask: "zscore" only: statistics and change are confined to these voxels.
        intensities: "ct" only: the training set's foreground statistics of this channel.

    Raises:
        ImageError: "rgb_to_0_1" met a value outside 0 to 255.
        PlanError: the scheme is unknown, or "ct" has no statistics.
    """
    if scheme == "zscore":
        _zscore(channel, mask)
    elif scheme == "ct":
        _ct(channel, intensities)
    elif scheme == "rescale_to_0_1":
        channel -= channel.min()
        channel /= max(channel.max(), np.float32(SMALLEST_DIVISOR))
    elif scheme == "rgb_to_0_1":
        _rgb(channel)
    elif scheme != "none":
        raise PlanError(f"there is no normalization {scheme}", "plan.normalization", "Plan again")


def _shift_and_scale(values: NDArray[np.float32], mean: float, std: float) -> None:
    values -= np.float32(mean)
    values /= np.float32(max(std, SMALLEST_DIVISOR))


def _zscore(channel: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> None:
    if mask is None:
        _shift_and_scale(channel, *mean_and_std(channel))
        return
    inside: NDArray[Any] = channel[mask]
    _shift_and_scale(inside, *mean_and_std(inside))
    channel[mask] = inside


def _ct(channel: NDArray[np.float32], intensities: Mapping[str, float] | None) -> None:
    if intensities is None:
        raise PlanError("CT normalization needs the fingerprint's intensities", "plan.intensities", "Plan again")
    np.clip(channel, intensities["percentile_00_5"], intensities["percentile_99_5"], out=channel)
    _shift_and_scale(channel, intensities["mean"], intensities["std"])


def _rgb(channel: NDArray[np.float32]) -> None:
    low, high = float(channel.min()), float(channel.max())
    if low < 0 or high > 255:
        raise ImageError(
            f"an RGB channel should lie between 0 and 255 but has values from {low:g} to {high:g}",
            remedy='Convert the image to 8 bit, or name the channel in dataset.json other than "rgb_to_0_1"',
        )
    channel /= np.float32(255)
