"""How a volume is cut into tiles and what is averaged: the settings of tiled inference for one model on one device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from segplan.inference.mirror_swap import MirrorSwap

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
        half_if_large: of one fold, accumulate in half precision too where the sums would take more than half a GiB.
        mirror_swap: channels that are exchanged in mirror images along one of the axes.
        probabilities: average the softmax of the logits in single precision, over mirror images, tiles and folds; all
            that is said of logits here then holds for probabilities.
        fast: make labels on the network's grid and resample these, not the logits (`segment_case`).
        regions: the channels are regions, so that none is certain where no tile was run; else the background is.
        skip_background: do not run tiles that hold only air (`Body`); the background is certain there.
        export_on_host: resample logits to labels on the host, even where an accelerator holds them.
        max_window_bytes: of the sums over tiles in the host's memory; what takes more goes to a temporary file. None:
            half of the free memory.
    """

    patch_size: tuple[int, ...]
    num_classes: int
    step_size: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    batch_size: int = 1
    dtype: torch.dtype = torch.float32
    exact_half: bool = False
    half_if_large: bool = False
    mirror_swap: MirrorSwap | None = None
    probabilities: bool = False
    fast: bool = False
    regions: bool = False
    skip_background: bool = False
    export_on_host: bool = False
    max_window_bytes: int | None = None


def auto_batch_size(patch_size: Sequence[int], device: torch.device) -> int:
    """Samples of a forward pass: many on accelerators and for small 2D tiles, else 1 (a 3D tile fills a CPU)."""
    voxels = math.prod(patch_size)
    if device.type == "cpu":
        return max(1, min(_MAX_BATCH, _BATCH_VOXELS["cpu_2d"] // voxels)) if len(patch_size) == 2 else 1
    return max(1, min(_MAX_BATCH, _BATCH_VOXELS["accelerator"] // voxels))
