"""Resampling of images, logits and label maps to another grid, one axis after the other.

The rules are nnU-Net 2.8.1's: voxel centres stay aligned with the field of view, edges are continued, images are cubic
B-splines clipped to their range, logits are linear, and thick slices are not mixed (see `separate_axis`). A tensor
product of splines is separable, so three passes over lines replace the 64 neighbours of a voxel.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segplan.errors import ImageError

ANISOTROPY_THRESHOLD = 3.0
"""Beyond this ratio of largest to smallest spacing, slices are resampled on their own."""

_INT16 = np.iinfo(np.int16)
_NO_LABEL = int(_INT16.min) - 1

_SLAB_VOXELS = 1 << 18
"""Voxels worked on together between two passes, so that they stay in a core's cache."""


def resampled_shape(shape: Sequence[int], current: Sequence[float], new: Sequence[float]) -> tuple[int, int, int]:
    """The size that keeps the field of view when spacing goes from `current` to `new`; at least one voxel an axis."""
    z, y, x = (max(1, round(a / b * n)) for n, a, b in zip(shape, current, new, strict=True))
    return (z, y, x)


def separate_axis(current: Sequence[float], new: Sequence[float]) -> int | None:
    """The axis along which slices are not mixed, or None.

    Judged by the current spacing, else by the new one: the axis of the largest spacing if that is more than
    `ANISOTROPY_THRESHOLD` times the smallest. No single largest axis, no separation.
    """
    for spacing in (current, new):
        largest = max(spacing)
        if largest / min(spacing) > ANISOTROPY_THRESHOLD:
            axes = [axis for axis, value in enumerate(spacing) if value == largest]
            return axes[0] if len(axes) == 1 else None
    return None


def resample_image(
    array: NDArray[np.float32],
    shape: Sequence[int],
    current: Sequence[float],
    new: Sequence[float],
    order: int = 3,
) -> NDArray[np.float32]:
    """Resample every channel to a grid of `shape`.

    Args:
        array: (C, Z, Y, X). Returned as it is when its shape does not change.
        shape: the output's (Z, Y, X).
        current: spacing of `array` in mm; with `new` it decides only whether slices are separate.
        new: spacing of the output in mm.
        order: 3 for images (cubic B-spline, clipped to the channel's or, with separate slices, the slice's range),
            1 for logits (linear).

    Returns:
        (C, *shape) float32.
    """
    if order not in (1, 3):
        raise ValueError(f"order must be 1 or 3, not {order}")
    if tuple(array.shape[1:]) == tuple(shape):
        return array
    result = np.empty((array.shape[0], *shape), dtype=np.float32)
    separate = separate_axis(current, new)
    for channel, target in zip(array, result, strict=True):
        resample_channel(channel.astype(np.float32, copy=False), target, separate, order)
    return result


def resample_labels(
    labels: NDArray[np.integer],
    shape: Sequence[int],
    current: Sequence[float],
    new: Sequence[float],
    *,
    nearest: bool = False,
    ignored: int | None = None,
) -> NDArray[np.integer]:
    """Resample a label map: each voxel takes the label with the largest linear weight around it.

    One pass whatever the number of labels. Equal to resizing each label's indicator linearly and taking the largest;
    exact ties go to the nearest neighbour's label if it is among the tied ones, else to the smallest label.

    Args:
        labels: (Z, Y, X), values within int16.
        shape: the output's (Z, Y, X).
        current: spacing of `labels` in mm.
        new: spacing of the output in mm.
        nearest: each voxel takes the nearest one's label instead.
        ignored: a label that shall not outvote others: a voxel takes it where the nearest one bears it, and elsewhere
            it has no vote.

    Returns:
        `shape`, int8 if `labels` is so, else int16 (`labels` itself where nothing changes).
    """
    narrow = labels if labels.dtype == np.int8 else to_int16(labels)
    if tuple(labels.shape) == tuple(shape):
        return narrow
    from segplan.preprocessing.kernels import vote_labels

    separate = separate_axis(current, new)
    tables = [_vote_table(labels.shape[axis], shape[axis], nearest or axis == separate) for axis in range(3)]
    nodes, shares = zip(*tables, strict=True)
    without_vote = _NO_LABEL if ignored is None else ignored
    result = np.empty(tuple(shape), dtype=narrow.dtype)
    step = max(1, _SLAB_VOXELS // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        # The kernel knows int16 alone; a slab at a time, that costs no memory.
        here = slice(start, min(start + step, shape[0]))
        low, high = int(nodes[0][here].min()), int(nodes[0][here].max()) + 1
        source = np.ascontiguousarray(narrow[low:high], dtype=np.int16)
        target = np.empty(result[here].shape, dtype=np.int16)
        vote_labels(source, target, (nodes[0][here] - low, *nodes[1:]), (shares[0][here], *shares[1:]), without_vote)
        result[here] = target
    return result


def to_int16(labels: NDArray[np.integer]) -> NDArray[np.int16]:
    """The same labels as int16, uncopied if they are so already.

    Raises:
        ImageError: a value does not fit.
    """
    if labels.size and not np.can_cast(labels.dtype, np.int16):
        low, high = int(labels.min()), int(labels.max())
        if low < _INT16.min or high > _INT16.max:
            raise ImageError(
                f"label values from {low} to {high} do not fit 16 bits", remedy="Number the labels 0, 1, 2 …"
            )
    return labels.astype(np.int16, copy=False)


def _centres(size_in: int, size_out: int) -> NDArray[np.float64]:
    """Where the centres of the output's voxels lie in the input, in voxels."""
    return (np.arange(size_out, dtype=np.float64) + 0.5) * (size_in / size_out) - 0.5


def _nearest_slice(size_in: int, size_out: int) -> NDArray[np.int64]:
    position = np.floor(size_in / size_out * (np.arange(size_out) + 0.5))
    index: NDArray[np.int64] = np.minimum(position, size_in - 1).astype(np.int64)
    return index


def _cubic_table(size_in: int, size_out: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    centre = _centres(size_in, size_out)
    below = np.floor(centre)
    t = centre - below
    weights = np.empty((size_out, 4))
    weights[:, 0] = (1 - t) ** 3 / 6
    weights[:, 1] = (t * t * (t - 2) * 3 + 4) / 6
    weights[:, 3] = t**3 / 6
    weights[:, 2] = 1 - weights[:, 0] - weights[:, 1] - weights[:, 3]
    return below.astype(np.int64) - 1, weights


def _linear_table(size_in: int, size_out: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    centre = np.clip(_centres(size_in, size_out), 0, size_in - 1)
    below = np.floor(centre)
    t = centre - below
    return below.astype(np.int64), np.stack([1 - t, t], axis=1)


def _vote_table(size_in: int, size_out: int, separate: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lower, upper and nearest index, and the weights of the first two, of each output position on an axis."""
    if separate:
        nearest = _nearest_slice(size_in, size_out)
        return np.stack([nearest] * 3, axis=1), np.tile([1.0, 0.0], (size_out, 1))
    lower, shares = _linear_table(size_in, size_out)
    upper = np.minimum(lower + 1, size_in - 1)
    centre = np.clip(_centres(size_in, size_out), 0, size_in - 1)
    nearest = np.minimum(np.floor(centre + 0.5).astype(np.int64), size_in - 1)
    return np.stack([lower, upper, nearest], axis=1), shares


def resample_channel(
    volume: NDArray[np.float32], target: NDArray[np.float32], separate: int | None, order: int
) -> None:
    """Resample one channel (Z, Y, X) into `target`, both of any strides; see `resample_image`.

    Besides the two, at most one volume is held that is smaller than either, or nothing with separate slices.
    """
    if volume.shape == target.shape:
        target[...] = volume
    elif separate is None:
        _resample_jointly(volume, target, order)
    else:
        axes = (separate, *(axis for axis in range(3) if axis != separate))
        _resample_slices(volume.transpose(axes), target.transpose(axes), order)


def _resample_slices(volume: NDArray[np.float32], target: NDArray[np.float32], order: int) -> None:
    """Resample every slice across the first axis in its plane, clipped to its own range, and pick the nearest."""
    picks = _nearest_slice(len(volume), len(target))
    for number in np.unique(picks):
        source = volume[number : number + 1]
        wanted = np.flatnonzero(picks == number)
        first = target[wanted[0] : wanted[0] + 1]
        if source.shape == first.shape:
            first[...] = source
        else:
            _resample_planes(source, first, order)
            _clip(first, source, order)
        target[wanted[1:]] = first


def _resample_jointly(volume: NDArray[np.float32], target: NDArray[np.float32], order: int) -> None:
    """Resample all axes, in the order that needs the smaller volume between."""
    across = (len(target), *volume.shape[1:])
    in_plane = (len(volume), *target.shape[1:])
    if len(target) == len(volume):
        _resample_planes(volume, target, order)
    elif volume.shape[1:] == target.shape[1:]:
        _resample_axis(volume, target, 0, order)
    elif np.prod(across) < np.prod(in_plane):
        between = np.empty(across, dtype=np.float32)
        _resample_axis(volume, between, 0, order)
        _resample_planes(between, target, order)
    else:
        between = np.empty(in_plane, dtype=np.float32)
        _resample_planes(volume, between, order)
        _resample_axis(between, target, 0, order)
    _clip(target, volume, order)


def _resample_planes(volume: NDArray[np.float32], target: NDArray[np.float32], order: int) -> None:
    """Resample the last two axes, a few planes at a time, so that what lies between the axes stays in the cache."""
    axes = [axis for axis in (1, 2) if volume.shape[axis] != target.shape[axis]]
    axes.sort(key=lambda axis: target.shape[axis] / volume.shape[axis])
    if len(axes) == 1:
        _resample_axis(volume, target, axes[0], order)
        return
    shape = [0, *volume.shape[1:]]
    shape[axes[0]] = target.shape[axes[0]]
    step = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    between = np.empty((min(step, len(volume)), *shape[1:]), dtype=np.float32)
    for start in range(0, len(volume), step):
        part = volume[start : start + step]
        _resample_axis(part, between[: len(part)], axes[0], order)
        _resample_axis(between[: len(part)], target[start : start + step], axes[1], order)


def _clip(target: NDArray[np.float32], source: NDArray[np.float32], order: int) -> None:
    """Splines overshoot; the result keeps to the source's range. Linear weights never leave it."""
    if order == 3:
        np.clip(target, source.min(), source.max(), out=target)


def _resample_axis(volume: NDArray[np.float32], target: NDArray[np.float32], axis: int, order: int) -> None:
    from segplan.preprocessing.kernels import resample_axis

    table = _cubic_table if order == 3 else _linear_table
    merge = volume.flags.c_contiguous and target.flags.c_contiguous
    first, weights = table(volume.shape[axis], target.shape[axis])
    resample_axis(_as_lines(volume, axis, merge), _as_lines(target, axis, merge), first, weights)


def _as_lines(volume: NDArray[np.float32], axis: int, merge: bool) -> NDArray[np.float32]:
    """A view (A, n, B) of a volume with `axis` in the middle; with `merge` the other two are one long B."""
    if axis == 1:
        return volume
    if axis == 2:
        lines = volume.reshape(1, -1, volume.shape[2]) if merge else volume
        return lines.transpose(0, 2, 1)
    return volume.reshape(1, len(volume), -1) if merge else volume.transpose(1, 0, 2)
