"""The plain formulas on whole volumes that streaming must agree with, and a guard that no such volume is made."""

import gc
import itertools
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segplan.inference import gaussian_weights, mirror_combinations, tile_starts
from segplan.inference.tiles import padding
from segplan.preprocessing import resample_image, resample_labels


def all_logits(networks, image: np.ndarray, tiling) -> np.ndarray:
    """Every tile, fold and mirror image on its own, added into sums over the whole volume."""
    flat = len(tiling.patch_size) == 2
    patch = (1, *tiling.patch_size) if flat else tiling.patch_size
    margins = padding(image.shape[1:], patch)
    padded = torch.from_numpy(np.pad(image, [(0, 0), *margins]))
    shape = padded.shape[1:]
    starts = [range(n) if p == 1 else tile_starts(n, p, tiling.step_size) for n, p in zip(shape, patch, strict=True)]
    dtype = torch.float16 if tiling.exact_half else torch.float32
    sums = torch.zeros(len(networks), tiling.num_classes, *shape, dtype=dtype)
    weights = torch.zeros(shape, dtype=dtype)
    gaussian = torch.tensor(gaussian_weights(tiling.patch_size)).reshape(patch)
    flips = [[axis + 2 for axis in axes] for axes in mirror_combinations(tiling.mirror_axes)]
    for start in itertools.product(*starts):
        region = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
        tile = padded[(slice(None), *region)]
        tile = (tile[:, 0] if flat else tile)[None]
        for network, total in zip(networks, sums, strict=True):
            answer = torch.stack([network(tile.flip(flip)).flip(flip) for flip in flips]).mean(0)[0]
            share = answer.reshape(-1, *patch) * gaussian
            # Half's smallest numbers are coarse for the weights in a tile's corners: this rounding is nnU-Net's.
            total[(slice(None), *region)] += share if tiling.exact_half else share.half()
        weights[region] += gaussian
    inside = tuple(slice(low, low + n) for (low, _), n in zip(margins, image.shape[1:], strict=True))
    return (sums / weights).float().mean(0)[(slice(None), *inside)].numpy()


def in_crop_box(logits: np.ndarray, properties, plan) -> np.ndarray:
    """The logits (K, …) on the grid of the crop box, in the network's axis order."""
    own = [properties.spacing[axis] for axis in properties.transpose]
    target = plan.target_spacing(properties.spacing)
    return resample_image(logits, properties.shape_after_cropping, target, own, order=1)


def decided(logits: np.ndarray, labels) -> np.ndarray:
    """Label values from logits (K, …)."""
    if not labels.has_regions:
        return np.array(labels.all_labels)[logits.argmax(0)]
    result = np.zeros(logits.shape[1:], int)
    for channel, value in zip(logits, labels.regions_class_order, strict=True):
        result[channel > 0] = value
    return result


def fast_labels(logits: np.ndarray, properties, plan, labels) -> np.ndarray:
    """Decided on the network's grid, then resampled as labels to the crop box."""
    own = [properties.spacing[axis] for axis in properties.transpose]
    grid = decided(logits, labels).astype(np.int16)
    return resample_labels(grid, properties.shape_after_cropping, plan.target_spacing(properties.spacing), own)


def in_file_frame(values: np.ndarray, properties, outside=0) -> np.ndarray:
    """Values (…, Z, Y, X) of the crop box, put back and transposed back."""
    lead = values.shape[:-3]
    result = np.full((*lead, *properties.shape_before_cropping), outside, values.dtype)
    result[(..., *(slice(*pair) for pair in properties.box))] = values
    back = np.argsort(properties.transpose)
    return result.transpose(*range(len(lead)), *(len(lead) + axis for axis in back))


def sure(logits: np.ndarray, labels, margin: float) -> np.ndarray:
    """Where rounding cannot change the label."""
    if labels.has_regions:
        return np.abs(logits).min(0) > margin
    ordered = np.sort(logits, axis=0)
    return ordered[-1] - ordered[-2] > margin


class LargestTensor(TorchDispatchMode):
    """The most values of a tensor that is made within, not counting views of those in `besides`."""

    def __init__(self, *besides: torch.Tensor) -> None:
        super().__init__()
        self.values, self._known = 0, {tensor.untyped_storage().data_ptr() for tensor in besides}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in self._known:
                self.values = max(self.values, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


@contextmanager
def no_array_of(values: int) -> Iterator[None]:
    """Fail if a tensor of that many values is made within, or numpy and Python take so many bytes at a time."""
    gc.collect()
    tracemalloc.start()
    try:
        with LargestTensor() as tensors:
            yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tensors.values < values, f"a tensor of {tensors.values} values, {values} are a volume of all classes"
    assert peak < values, f"{peak} bytes of arrays at a time, {values} values are a volume of all classes"
