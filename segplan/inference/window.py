"""Sums of weighted logits over the slices that tiles still reach: what tiled inference holds, and all of it."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from segplan.errors import ModelError, StorageError
from segplan.inference.forward import is_out_of_memory, release
from segplan.inference.tiles import gaussian_weights
from segplan.inference.tiling import Tiling
from segplan.preprocessing.memory import describe_bytes, usable_memory

HOST = torch.device("cpu")
_HALF_MAX = 65504.0
_CHANNELS_AT_ONCE = 8
_CHUNK_BYTES = 1 << 26
_LARGE_BYTES = 1 << 29
_SPILL_SHARE = 0.5
_SURE = 20.0  # the logit of what was not looked at


class Window:
    """A ring of slices, as deep as a tile, that moves along the volume's first axis.

    The sums are in single precision, or, with `exact_half`, in half precision for each fold, as nnU-Net 2.8.1 keeps
    them. In single precision each tile's share of logits is still rounded to half: in the far corners of the volume,
    seen by one tile at a weight near half's smallest number, that rounding decides nnU-Net's labels.

    With `half_if_large` the large sums of one fold are in half precision as well, which halves what is held: beside a
    network that computes in 8 or 11 bits of precision, another 11 bits for the sums are no loss.

    They lie on `device`; on the host if there is no room; in a temporary file if the host has none either.

    Args:
        tiling: the tiles, their number format and channels.
        folds: how many networks are averaged.
        shape: (depth, Y, X) of the ring.
        device: where to keep the sums if there is room.
        notes: receives a line for the user for each choice that was made for want of memory.
    """

    def __init__(
        self, tiling: Tiling, folds: int, shape: tuple[int, ...], device: torch.device, notes: list[str]
    ) -> None:
        self.depth, self.folds, self.notes = shape[0], folds, notes
        is_large = 4 * tiling.num_classes * math.prod(shape) > _LARGE_BYTES
        self.exact = tiling.exact_half or (tiling.half_if_large and folds == 1 and is_large)
        self.rounded = not (self.exact or tiling.probabilities)
        self.max_bytes = tiling.max_window_bytes
        self.unseen = torch.full((tiling.num_classes, 1, 1, 1), -_SURE if tiling.regions else 0.0)
        if not tiling.regions:
            self.unseen[0] = 1.0 if tiling.probabilities else _SURE
        dtype = torch.float16 if self.exact else torch.float32
        self.device = device
        self.sums = self._allocate((folds if self.exact else 1, tiling.num_classes, *shape), dtype)
        self.weights = torch.zeros(shape, dtype=dtype, device=self.device)
        gaussian = torch.tensor(gaussian_weights(tiling.patch_size), device=self.device)
        self.gaussian = gaussian[None] if gaussian.ndim == 2 else gaussian
        # Overlapping weights sum to less than this many times their peak, so that no sum exceeds half's largest number.
        overlap = (1 + 1 / (3 * tiling.step_size)) ** len(tiling.patch_size) if self.exact else 1.0
        self.limit = _HALF_MAX / (float(gaussian.max()) * overlap)

    @property
    def on_host(self) -> bool:
        """Whether the sums are in the host's memory, so that there is nowhere else to move them."""
        return self.device == HOST

    def move_to_host(self) -> None:
        """Leave the device's memory to the network."""
        self.notes.append(f"the memory of {self.device} is full: tiles are summed up in the host's")
        old, self.device = self.device, HOST
        shape = tuple(self.sums.shape)
        host = self._allocate(shape, self.sums.dtype)
        host.copy_(self.sums)
        self.sums = host
        self.weights, self.gaussian = self.weights.to(HOST), self.gaussian.to(HOST)
        release(old)

    def add(self, logits: Tensor, start: Sequence[int], fold: int = 0) -> None:
        """Add a tile's logits (K, *patch) at `start` (z, y, x) of the padded volume."""
        values = logits if logits.ndim == 4 else logits[:, None]
        rows, columns = (slice(low, low + size) for low, size in zip(start[1:], values.shape[2:], strict=True))
        sums = self.sums[fold if self.exact else 0]
        for ring, own in self._parts(start[0], values.shape[1]):
            gaussian = self.gaussian[own]
            for low in range(0, len(values), _CHANNELS_AT_ONCE):
                channels = slice(low, low + _CHANNELS_AT_ONCE)
                part = values[channels, own].to(self.device, torch.float32)
                share = part.clamp(-self.limit, self.limit).mul_(gaussian)
                sums[channels, ring, rows, columns] += share.half() if self.rounded else share
            if fold == 0:
                self.weights[ring, rows, columns] += gaussian

    def finish(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Give out the slices from `start` to before `stop`, which no later tile touches, and free their places.

        Yields:
            The first slice of a piece, and its logits (K, depth, Y, X), float32.

        Raises:
            ModelError: the network gave values that are not finite.
        """
        slice_bytes = 4 * math.prod(self.sums.shape[1:]) // self.depth
        at_once = max(1, _CHUNK_BYTES // slice_bytes)
        for first in range(start, stop, at_once):
            parts = self._parts(first, min(at_once, stop - first))
            yield first, torch.cat([self._mean(ring) for ring, _ in parts], dim=1)
        for ring, _ in self._parts(start, stop - start):
            self.sums[:, :, ring] = 0
            self.weights[ring] = 0

    def _mean(self, ring: slice) -> Tensor:
        weights = self.weights[ring]
        quotient = self.sums[:, :, ring] / weights
        total = quotient[0]
        for fold in quotient[1:]:
            total = total + fold
        logits = (total / self.folds).float()
        unseen = weights == 0
        if unseen.any():
            logits = torch.where(unseen, self.unseen.to(self.device), logits)
        if not torch.isfinite(logits.sum()):
            raise ModelError("the network gives values that are not finite (NaN)", remedy="Use trainer.precision=32.")
        return logits

    def _parts(self, start: int, count: int) -> list[tuple[slice, slice]]:
        """The places of `count` slices from `start` on in the ring, each with which of the slices they are."""
        first = start % self.depth
        before_end = min(count, self.depth - first)
        parts = [(slice(first, first + before_end), slice(0, before_end))]
        if before_end < count:
            parts.append((slice(0, count - before_end), slice(before_end, count)))
        return parts

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if not self.on_host:
            try:
                return torch.zeros(shape, dtype=dtype, device=self.device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            release(self.device)
            self.notes.append(f"no room on {self.device} for the sums over tiles: they are in the host's memory")
            self.device = HOST
        size = math.prod(shape) * dtype.itemsize
        limit = int(_SPILL_SHARE * usable_memory()) if self.max_bytes is None else self.max_bytes
        if size <= limit:
            return torch.zeros(shape, dtype=dtype)
        folder = tempfile.gettempdir()
        what = f"the sums over tiles take {describe_bytes(size)}, more than {describe_bytes(limit)} of memory"
        self.notes.append(f"{what}: they are in a temporary file in {folder} (TMPDIR)")
        return _mapped_zeros(shape, dtype, size)


def _mapped_zeros(shape: tuple[int, ...], dtype: torch.dtype, size: int) -> Tensor:
    """Zeros in a temporary file without a name, which vanishes with the array, however the process ends."""
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a signal at some later write
                os.posix_fallocate(file.fileno(), 0, size)
            array = np.memmap(file, {torch.float16: np.float16, torch.float32: np.float32}[dtype], "r+", shape=shape)
        except OSError as error:
            raise StorageError.from_os_error(error, tempfile.gettempdir()) or error from error
        return torch.from_numpy(array)
