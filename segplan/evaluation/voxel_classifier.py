"""The best classifier that sees one voxel at a time: its intensity and where it lies in the body.

It is the floor that a segmentation network must beat: a histogram of the classes over (intensity × position), with a
weight for each class chosen so that the Dice is highest. The phantom is made so that this floor stays low.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

VoxelCase = tuple[NDArray[np.float32], NDArray[np.integer]]
"""An image (C, Z, Y, X) and its label map (Z, Y, X)."""

INTENSITY_BINS = {1: 40, 3: 10}
"""Bins a channel, by number of channels."""
POSITION_BINS = 6
"""Bins an axis."""
FRAMES = ("none", "image", "body")
"""What positions are relative to; the one that serves best is taken."""
_WEIGHTS = np.exp(np.linspace(-4, 5, 37))


@dataclass(frozen=True)
class VoxelClassifier:
    """A lookup table from a voxel's bin to its class.

    Args:
        frame: what positions are relative to, one of `FRAMES`.
        table: class of each bin, (bins,).
    """

    frame: str
    table: NDArray[np.uint8]

    def predict(self, image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Label map (Z, Y, X) of an image (C, Z, Y, X)."""
        return self.table[_bins(image, self.frame)].reshape(image.shape[1:])


def fit_voxel_classifier(cases: Sequence[VoxelCase], num_classes: int) -> VoxelClassifier:
    """Fit the classifier.

    The class weights and the frame of the positions are chosen on the cases with odd numbers after counting those with
    even numbers; the table returned counts all of them.

    Args:
        cases: training cases, at least two.
        num_classes: classes including the background.
    """
    best: tuple[float, str, NDArray[np.float64], NDArray[np.float64]] | None = None
    for frame in FRAMES:
        halves = [_count(cases[start::2], frame, num_classes) for start in (0, 1)]
        weights, score = best_weights(_posterior(halves[0], cases[0][0], frame), halves[1])
        if best is None or score > best[0]:
            best = score, frame, weights, _posterior(halves[0] + halves[1], cases[0][0], frame)
    if best is None:
        raise ValueError("no frame to fit")
    _, frame, weights, posterior = best
    return VoxelClassifier(frame, np.argmax(posterior * weights, axis=1).astype(np.uint8))


def best_weights(scores: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Weights of the classes for which argmax(scores · weights) has the highest mean foreground Dice.

    Args:
        scores: probability of each class in each bin (or for each sample), (N, K).
        counts: voxels of each class in each bin, (N, K).

    Returns:
        The weights (K,), found by coordinate ascent, and the Dice that they reach (pooled over all voxels).
    """
    weights = 1 / np.maximum(counts.sum(axis=0), 1)
    weights /= weights[0]
    best = _pooled_dice(scores * weights, counts)
    for _ in range(3):
        for index in range(1, len(weights)):
            for factor in _WEIGHTS:
                trial = weights.copy()
                trial[index] = factor
                dice = _pooled_dice(scores * trial, counts)
                if dice > best:
                    weights, best = trial, dice
    return weights, best


def _pooled_dice(scores: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Mean foreground Dice over all voxels of predicting argmax(scores)."""
    chosen = np.argmax(scores, axis=1)
    classes = counts.shape[1]
    hits = np.bincount(chosen, counts[np.arange(len(chosen)), chosen], classes)
    predicted = np.bincount(chosen, counts.sum(axis=1), classes)
    return float(np.mean((2 * hits / np.maximum(predicted + counts.sum(axis=0), 1))[1:]))


def _count(cases: Sequence[VoxelCase], frame: str, num_classes: int) -> NDArray[np.float64]:
    """Voxels of each class in each bin, (bins, K)."""
    size = int(np.prod(_table_shape(cases[0][0], frame)))
    total = np.zeros(size * num_classes)
    for image, labels in cases:
        joint = _bins(image, frame) * num_classes + labels.ravel()
        total += np.bincount(joint, minlength=size * num_classes)
    return total.reshape(size, num_classes)


def _posterior(counts: NDArray[np.float64], image: NDArray[np.float32], frame: str) -> NDArray[np.float64]:
    """Probability of each class in each bin (bins, K): counts smoothed along intensity and position."""
    table = counts.reshape(*_table_shape(image, frame), counts.shape[1])
    smooth = ndimage.gaussian_filter(table, [0.7] * (table.ndim - 1) + [0.0], mode="nearest").reshape(counts.shape)
    smooth += 1e-6 * counts.sum(axis=0) / counts.sum()
    return np.asarray(smooth / smooth.sum(axis=1, keepdims=True))


def _table_shape(image: NDArray[np.float32], frame: str) -> tuple[int, ...]:
    """Bins of each channel and each axis."""
    channels = len(image)
    bins = INTENSITY_BINS.get(channels, 6)
    positions = tuple(1 if frame == "none" or extent == 1 else POSITION_BINS for extent in image.shape[1:])
    return (bins,) * channels + positions


def _bins(image: NDArray[np.float32], frame: str) -> NDArray[np.intp]:
    """Bin of each voxel in the table, flattened (Z · Y · X,)."""
    shape = _table_shape(image, frame)
    body = find_body(image)
    index = np.zeros(image.shape[1:], np.intp)
    for channel, bins in zip(image, shape, strict=False):
        low, high = np.percentile(channel[body], (1, 99))
        scaled = (channel - low) / max(float(high - low), 1e-6)
        index = index * bins + np.clip(scaled * bins, 0, bins - 1).astype(np.intp)
    for axis, bins in enumerate(shape[len(image) :]):
        position = relative_position(body, axis, frame)
        along = np.clip(position * bins, 0, bins - 1).astype(np.intp)
        index = index * bins + np.expand_dims(along, tuple(other for other in range(3) if other != axis))
    return index.ravel()


def relative_position(body: NDArray[np.bool_], axis: int, frame: str) -> NDArray[np.float64]:
    """Position along an axis relative to the image or to the body's box: 0 to 1 from one end to the other."""
    extent = body.shape[axis]
    if frame != "body":
        return np.asarray((np.arange(extent) + 0.5) / extent)
    present = np.flatnonzero(body.any(axis=tuple(other for other in range(3) if other != axis)))
    return np.asarray((np.arange(extent) + 0.5 - present[0]) / (present[-1] + 1 - present[0]))


def find_body(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """What differs from the picture's rim (Z, Y, X): the largest component above Otsu's threshold (Otsu, 1979)."""
    edge = np.concatenate([image[:, :, 0], image[:, :, -1]], axis=-1)
    contrast = np.abs(image - np.median(edge, axis=(1, 2))[:, None, None, None]).sum(axis=0)
    counts, edges = np.histogram(contrast, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    mask = contrast > centres[int(np.nanargmax(between[:-1]))]
    parts, count = ndimage.label(mask)
    if count == 0:
        return np.ones(mask.shape, bool)
    return np.asarray(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
