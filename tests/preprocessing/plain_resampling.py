"""The plain version of resampling, written from the rules with scipy and one indicator a label. Slow."""

import numpy as np
from scipy import ndimage


def zoom(volume, shape, order):
    factors = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    result = ndimage.zoom(volume.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)
    assert result.shape == tuple(shape)
    return np.clip(result, volume.min(), volume.max())


def vote(labels, shape):
    values = np.unique(labels)
    scores = np.stack([zoom((labels == value).astype(np.float64), shape, 1) for value in values])
    nearest = zoom(labels, shape, 0).astype(labels.dtype)
    best = scores == scores.max(axis=0)
    smallest = values[best.argmax(axis=0)]
    nearest_is_tied = np.take_along_axis(best, np.searchsorted(values, nearest)[None], axis=0)[0]
    return np.where(nearest_is_tied, nearest, smallest)


def margin(labels, shape):
    """By how much the largest indicator beats the second; where it is nothing but rounding, the winner is chance."""
    values = np.unique(labels)
    scores = np.stack([zoom((labels == value).astype(np.float64), shape, 1) for value in values])
    if len(values) == 1:
        return np.ones(shape)
    first, second = np.sort(scores, axis=0)[:-3:-1]
    return first - second


def slice_by_slice(volume, shape, axis, resize):
    """Resize every slice across `axis` in its plane, then pick the nearest slice."""
    in_plane = tuple(size for position, size in enumerate(shape) if position != axis)
    slices = [resize(plane, in_plane) for plane in np.moveaxis(volume, axis, 0)]
    centres = (np.arange(shape[axis]) + 0.5) * volume.shape[axis] / shape[axis]
    return np.moveaxis(np.stack([slices[min(int(c), len(slices) - 1)] for c in centres]), 0, axis)
