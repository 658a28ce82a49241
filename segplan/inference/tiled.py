"""Tiled inference: overlapping tiles, Gaussian weights, mirror images and folds averaged as logits.

Tiles run in order along the first axis. What no later tile touches is finished and handed on, so that memory holds
one tile's depth of logits, whatever the length of the volume.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segplan.inference.forward import Forward, Network, is_out_of_memory
from segplan.inference.tile_input import Body, TileSource, cut_tile
from segplan.inference.tiles import padding, tile_starts
from segplan.inference.tiling import Tiling, auto_batch_size
from segplan.inference.window import Window

__all__ = ["Network", "Tiling", "auto_batch_size", "sliding_window", "stream_logits"]


def sliding_window(
    networks: Network | Sequence[Network],
    image: TileSource,
    tiling: Tiling,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The logits of a whole image, (K, Z, Y, X) float32 on the CPU; arguments as in `stream_logits`."""
    return torch.cat([slab.cpu() for slab in stream_logits(networks, image, tiling, device)], dim=1)


def stream_logits(
    networks: Network | Sequence[Network],
    image: TileSource,
    tiling: Tiling,
    device: torch.device | str = "cpu",
    notes: list[str] | None = None,
) -> Iterator[Tensor]:
    """Yield the logits of an image slab by slab along its first axis.

    Args:
        networks: one, or the folds, whose logits are averaged.
        image: (C, Z, Y, X) in the network frame; may be memory-mapped. A 2D network sees it slice by slice.
        tiling: how to cut and average.
        device: where the networks are.
        notes: receives a line for the user for each choice that was made for want of memory, and for skipped tiles.

    Yields:
        (K, depth, Y, X) float32, on `device` if there was room; the slabs in order cover Z exactly once.

    Raises:
        ModelError: the network gives values that are not finite.
        StorageError: neither memory nor the disk of temporary files holds a slab.
    """
    folds = list(networks) if isinstance(networks, Sequence) else [networks]
    told = [] if notes is None else notes
    flat = len(tiling.patch_size) == 2
    patch = (1, *tiling.patch_size) if flat else tiling.patch_size
    margins = padding(image.shape[1:], patch)
    padded = [size + sum(margin) for size, margin in zip(image.shape[1:], margins, strict=True)]
    forward = Forward(tiling, torch.device(device), told)
    depth = max(1, tiling.batch_size // len(forward.flips)) if flat else patch[0]
    window = Window(tiling, len(folds), (depth, *padded[1:]), forward.device, told)
    tiles = _Tiles(image, patch, flat, margins, Body.of(image) if tiling.skip_background else None)
    in_plane = list(itertools.product(*(tile_starts(padded[axis], patch[axis], tiling.step_size) for axis in (1, 2))))
    inside = [slice(low, low + size) for (low, _), size in zip(margins, image.shape[1:], strict=True)]
    for rows, stop in _rows(padded[0], patch[0], depth, tiling.step_size):
        _add_tiles(window, forward, folds, tiles, [(z, y, x) for z in rows for y, x in in_plane])
        for first, slab in window.finish(rows[0], stop):
            kept = slice(max(0, inside[0].start - first), max(0, min(first + slab.shape[1], inside[0].stop) - first))
            if kept.stop > kept.start:
                yield slab[:, kept, inside[1], inside[2]].contiguous()
    if tiles.skipped:
        told.append(f"{tiles.skipped} of {tiles.skipped + tiles.cut} tiles hold only air and were not run")


Start = tuple[int, int, int]


@dataclass
class _Tiles:
    """Cuts the tiles that are worth it, and counts."""

    image: TileSource
    patch: tuple[int, ...]
    flat: bool
    margins: list[tuple[int, int]]
    body: Body | None
    cut: int = 0
    skipped: int = 0

    def at(self, starts: Sequence[Start]) -> Iterator[tuple[Start, Tensor]]:
        for start in starts:
            tile = cut_tile(self.image, start, self.patch, self.margins)
            if self.body is not None and not self.body.is_in(tile):
                self.skipped += 1
                continue
            self.cut += 1
            yield start, tile


def _add_tiles(
    window: Window, forward: Forward, folds: Sequence[Network], tiles: _Tiles, starts: Sequence[Start]
) -> None:
    """Run the tiles at `starts` through every fold, and add what comes out to the window."""
    source = tiles.at(starts)
    while batch := list(itertools.islice(source, forward.tiles_at_once)):
        stacked = torch.stack([tile for _, tile in batch])
        samples = stacked[:, :, 0] if tiles.flat else stacked
        for fold, network in enumerate(folds):
            logits = _logits(forward, window, network, samples)
            for (start, _), values in zip(batch, logits, strict=True):
                window.add(values, start, fold)
            del logits, values


def _logits(forward: Forward, window: Window, network: Network, samples: Tensor) -> Tensor:
    try:
        return forward(network, samples)
    except RuntimeError as error:
        if window.on_host or not is_out_of_memory(error):
            raise
    window.move_to_host()
    return forward(network, samples)


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
