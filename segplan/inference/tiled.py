"""Tiled inference: overlapping tiles, Gaussian weights, mirror images and folds averaged as logits.

Tiles run in order along the first axis. What no later tile touches is finished and handed on, so that memory holds
one tile's depth of logits, whatever the length of the volume.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segplan.errors import ModelError
from segplan.inference.mirror_swap import MirrorSwap
from segplan.inference.precision import autocast
from segplan.inference.tiles import gaussian_weights, mirror_combinations, padding, tile_starts

Network = Callable[[Tensor], Tensor | Sequence[Tensor]]
"""Maps tiles (B, C, *patch) to logits (B, K, *patch), or to a list of which the first are those."""

_HALF_MAX = 65504.0
_BATCH_VOXELS = {"cpu_2d": 2**17, "accelerator": 4 * 128**3}
_MAX_BATCH = 64


@dataclass(frozen=True)
class Tiling:
    """How a volume is cut into tiles and what is averaged.

    Args:
        patch_size: voxels of a tile, (Z, Y, X), or (Y, X) for a 2D network.
        num_classes: channels K of the logits.
        step_size: largest distance of two tiles as a fraction of the patch.
        mirror_axes: network axes whose mirror images are averaged too.
        batch_size: samples (tiles × mirror images) of a forward pass.
        dtype: number format of the forward pass.
        exact_half: accumulate in half precision, fold by fold, as nnU-Net 2.8.1 does: the same logits bit for bit
            on the same hardware, for twice the rounding error. False: one single-precision sum for all folds.
        mirror_swap: channels that are exchanged in mirror images along one of the axes.
        probabilities: average the softmax of the logits in single precision, over mirror images, tiles and folds; all
            that is said of logits here then holds for probabilities.
    """

    patch_size: tuple[int, ...]
    num_classes: int
    step_size: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    batch_size: int = 1
    dtype: torch.dtype = torch.float32
    exact_half: bool = False
    mirror_swap: MirrorSwap | None = None
    probabilities: bool = False


def auto_batch_size(patch_size: Sequence[int], device: torch.device) -> int:
    """Samples of a forward pass: many on accelerators and for small 2D tiles, else 1 (a 3D tile fills a CPU)."""
    voxels = math.prod(patch_size)
    if device.type == "cpu":
        return max(1, min(_MAX_BATCH, _BATCH_VOXELS["cpu_2d"] // voxels)) if len(patch_size) == 2 else 1
    return max(1, min(_MAX_BATCH, _BATCH_VOXELS["accelerator"] // voxels))


def sliding_window(
    networks: Network | Sequence[Network],
    image: np.ndarray | Tensor,
    tiling: Tiling,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The logits of a whole image, (K, Z, Y, X) float32 on the CPU; arguments as in `stream_logits`."""
    return torch.cat([slab.cpu() for slab in stream_logits(networks, image, tiling, device)], dim=1)


def stream_logits(
    networks: Network | Sequence[Network],
    image: np.ndarray | Tensor,
    tiling: Tiling,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yield the logits of an image slab by slab along its first axis.

    Args:
        networks: one, or the folds, whose logits are averaged.
        image: (C, Z, Y, X) in the network frame; may be memory-mapped. A 2D network sees it slice by slice.
        tiling: how to cut and average.
        device: where the networks are.

    Yields:
        (K, depth, Y, X) float32 on `device`; the slabs in order cover Z exactly once.

    Raises:
        ModelError: the network gives values that are not finite.
    """
    folds = list(networks) if isinstance(networks, Sequence) else [networks]
    flat = len(tiling.patch_size) == 2
    patch = (1, *tiling.patch_size) if flat else tiling.patch_size
    margins = padding(image.shape[1:], patch)
    padded = [size + sum(margin) for size, margin in zip(image.shape[1:], margins, strict=True)]
    forward = _Forward(folds, tiling, torch.device(device))
    depth = max(1, tiling.batch_size // len(forward.flips)) if flat else patch[0]
    window = _Window(tiling, len(folds), (depth, *padded[1:]), forward.device)
    in_plane = list(itertools.product(*(tile_starts(padded[axis], patch[axis], tiling.step_size) for axis in (1, 2))))
    inside = [slice(low, low + size) for (low, _), size in zip(margins, image.shape[1:], strict=True)]
    for rows, stop in _rows(padded[0], patch[0], depth, tiling.step_size):
        starts = [(z, y, x) for z in rows for y, x in in_plane]
        for batch in _batches(starts, forward):
            tiles = torch.stack([_cut(image, start, patch, margins) for start in batch])
            for start, logits in zip(batch, forward(tiles[:, :, 0] if flat else tiles), strict=True):
                window.add(logits[:, :, None] if flat else logits, (start[0] - rows[0], *start[1:]))
        if stop == rows[0]:  # rounding put the next tiles on the same slices
            continue
        slab = window.finish(stop - rows[0])
        kept = slice(max(0, inside[0].start - rows[0]), max(0, min(stop, inside[0].stop) - rows[0]))
        yield slab[:, kept, inside[1], inside[2]].contiguous()


def _rows(size: int, patch: int, depth: int, step_size: float) -> Iterator[tuple[range, int]]:
    """First slices of the tiles that are worked on together, and where the slices that they finish end."""
    if patch == 1:
        for start in range(0, size, depth):
            stop = min(start + depth, size)
            yield range(start, stop), stop
        return
    starts = tile_starts(size, patch, step_size)
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        yield range(start, start + 1), stop


def _cut(
    image: np.ndarray | Tensor, start: Sequence[int], patch: Sequence[int], margins: Sequence[tuple[int, int]]
) -> Tensor:
    """The tile (C, *patch) at `start` of the padded image; only the tile is ever padded or read."""
    lows = [first - low for first, (low, _) in zip(start, margins, strict=True)]
    spans = [
        (max(0, low), min(low + size, total)) for low, size, total in zip(lows, patch, image.shape[1:], strict=True)
    ]
    part = image[(slice(None), *(slice(*span) for span in spans))]
    tile = part.float() if isinstance(part, Tensor) else torch.from_numpy(np.array(part, dtype=np.float32))
    lacking = [(a - low, low + size - b) for low, size, (a, b) in zip(lows, patch, spans, strict=True)]
    return F.pad(tile, [width for pair in reversed(lacking) for width in pair]) if np.any(lacking) else tile


def _batches(starts: Sequence[tuple[int, int, int]], forward: "_Forward") -> Iterator[Sequence[tuple[int, int, int]]]:
    position = 0
    while position < len(starts):
        yield starts[position : position + forward.tiles_at_once]
        position += forward.tiles_at_once


class _Forward:
    """Runs all folds on all mirror images of some tiles; halves the batch where the device's memory is too small."""

    def __init__(self, folds: Sequence[Network], tiling: Tiling, device: torch.device) -> None:
        self.folds, self.dtype, self.device = folds, tiling.dtype, device
        self.flips = [[axis + 2 for axis in axes] for axes in mirror_combinations(tiling.mirror_axes)]
        self.samples = max(1, tiling.batch_size)
        self.swap, self.probabilities = tiling.mirror_swap, tiling.probabilities

    @property
    def tiles_at_once(self) -> int:
        return max(1, self.samples // len(self.flips))

    @torch.no_grad()
    def __call__(self, tiles: Tensor) -> Tensor:
        """Map tiles (B, C, *patch) to logits (B, fold, K, *patch), float32, averaged over the mirror images."""
        try:
            on_device = tiles.to(self.device)
            return torch.stack([self._fold(network, on_device) for network in self.folds], dim=1)
        except torch.OutOfMemoryError:
            if self.samples == 1:
                raise
            self.samples //= 2
        return torch.cat([self(part) for part in torch.split(tiles, self.tiles_at_once)])

    def _fold(self, network: Network, tiles: Tensor) -> Tensor:
        total: Tensor | None = None
        at_once = max(1, self.samples // len(tiles))
        for first in range(0, len(self.flips), at_once):
            flips = self.flips[first : first + at_once]
            logits = self._run(network, torch.cat([self._mirrored(tiles, flip) for flip in flips]))
            for flip, mirrored in zip(flips, torch.split(logits, len(tiles)), strict=True):
                part = mirrored.flip(flip).float()  # flip copies, so the sum never writes into the network's output
                if self._swaps(flip) and self.swap is not None:
                    part = part[:, self.swap.heads]
                total = part if total is None else total.add_(part)
        return tiles if total is None else total.div_(len(self.flips))

    def _mirrored(self, tiles: Tensor, flip: list[int]) -> Tensor:
        flipped = tiles.flip(flip)
        if self._swaps(flip) and self.swap is not None and self.swap.inputs:
            first = flipped.shape[1] - len(self.swap.inputs)
            flipped[:, first:] = flipped[:, [first + channel for channel in self.swap.inputs]]
        return flipped

    def _swaps(self, flip: list[int]) -> bool:
        return self.swap is not None and self.swap.axis + 2 in flip

    def _run(self, network: Network, samples: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            result = network(samples)
        logits = result if isinstance(result, Tensor) else result[0]
        return logits.float().softmax(dim=1) if self.probabilities else logits


class _Window:
    """Sums of weighted logits over the slices that tiles still reach.

    Each tile's share of logits is rounded to half precision, as nnU-Net 2.8.1 stores it: in the far corners of the
    volume, seen by one tile at a weight near half's smallest number, that rounding decides labels.
    """

    def __init__(self, tiling: Tiling, folds: int, shape: tuple[int, ...], device: torch.device) -> None:
        dtype = torch.float16 if tiling.exact_half else torch.float32
        weights = torch.tensor(gaussian_weights(tiling.patch_size), device=device)
        self.gaussian = weights[None] if weights.ndim == 2 else weights
        self.exact, self.folds = tiling.exact_half, folds
        self.rounded = not (tiling.exact_half or tiling.probabilities)
        self.sums = torch.zeros((folds if self.exact else 1, tiling.num_classes, *shape), dtype=dtype, device=device)
        self.weights = torch.zeros(shape, dtype=dtype, device=device)
        # Overlapping weights sum to less than this many times their peak, so that no sum exceeds half's largest number.
        overlap = (1 + 1 / (3 * tiling.step_size)) ** len(tiling.patch_size) if self.exact else 1.0
        self.limit = _HALF_MAX / (float(weights.max()) * overlap)

    def add(self, logits: Tensor, offset: Sequence[int]) -> None:
        """Add a tile's logits (fold, K, *patch) at `offset` within the window."""
        region = tuple(slice(low, low + size) for low, size in zip(offset, self.gaussian.shape, strict=True))
        for fold, values in enumerate(logits):
            share = values.clamp(-self.limit, self.limit).mul_(self.gaussian)
            self.sums[fold if self.exact else 0][(slice(None), *region)] += share.half() if self.rounded else share
        self.weights[region] += self.gaussian

    def finish(self, count: int) -> Tensor:
        """Take the first `count` slices: their logits (K, count, Y, X), float32; the window moves on by as many."""
        quotient = self.sums[:, :, :count] / self.weights[:count]
        total = quotient[0]
        for fold in quotient[1:]:
            total = total + fold
        logits = (total / self.folds).float()
        if not torch.isfinite(logits.sum()):
            raise ModelError("the network gives values that are not finite (NaN)", remedy="Use trainer.precision=32.")
        self._shift(count)
        return logits

    def _shift(self, count: int) -> None:
        depth = self.weights.shape[0]
        for array, axis in ((self.sums, 2), (self.weights, 0)):
            for low in range(0, depth - count, count):  # piecewise: source and target must not overlap
                size = min(count, depth - count - low)
                array.narrow(axis, low, size).copy_(array.narrow(axis, low + count, size))
            array.narrow(axis, max(0, depth - count), min(count, depth)).zero_()
