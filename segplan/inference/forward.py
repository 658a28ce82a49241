"""One forward pass: the mirror images of some tiles through one network, in batches that fit the device's memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segplan.inference.precision import autocast
from segplan.inference.tiles import mirror_combinations
from segplan.inference.tiling import Tiling

Network = Callable[[Tensor], Tensor | Sequence[Tensor]]
"""Maps tiles (B, C, *patch) to logits (B, K, *patch), or to a list of which the first are those."""

_CHANNELS_AT_ONCE = 8
_MEMORY_SHARE = 0.8


class Forward:
    """Runs networks on mirror images of tiles; halves the batch where the device's memory is too small.

    Args:
        tiling: which mirror images, in what batches and number format.
        device: where the networks are.
        notes: receives a line for the user when the batch is made smaller.
    """

    def __init__(self, tiling: Tiling, device: torch.device, notes: list[str]) -> None:
        self.dtype, self.device, self.notes = tiling.dtype, device, notes
        self.flips = [[axis + 2 for axis in axes] for axes in mirror_combinations(tiling.mirror_axes)]
        self.samples = max(1, tiling.batch_size)
        self.swap, self.probabilities = tiling.mirror_swap, tiling.probabilities
        self._measured = device.type != "cuda"

    @property
    def tiles_at_once(self) -> int:
        """How many tiles to hand over, so that they and their mirror images fill a batch."""
        return max(1, self.samples // len(self.flips))

    @torch.no_grad()
    def __call__(self, network: Network, tiles: Tensor) -> Tensor:
        """Map tiles (B, C, *patch) to logits (B, K, *patch), averaged over the mirror images, on the device.

        Raises:
            RuntimeError: the device's memory does not even hold one sample (`is_out_of_memory`).
        """
        at_once = self.tiles_at_once
        if len(tiles) > at_once:  # the batch has become smaller since they were cut
            return torch.cat([self(network, part) for part in torch.split(tiles, at_once)])
        try:
            if not self._measured:
                self._fit_to_memory(network, tiles[:1])
            return self._mean_over_mirrors(network, tiles.to(self.device))
        except RuntimeError as error:
            if self.samples == 1 or not is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback keeps the failed pass's tensors alive.
        release(self.device)
        self.samples //= 2
        self.notes.append(f"the memory of {self.device} is full: batches of {self.samples} from here on")
        return self(network, tiles)

    def _mean_over_mirrors(self, network: Network, tiles: Tensor) -> Tensor:
        total: Tensor | None = None
        at_once = max(1, self.samples // len(tiles))
        for first in range(0, len(self.flips), at_once):
            flips = self.flips[first : first + at_once]
            logits = self._run(network, torch.cat([self._mirrored(tiles, flip) for flip in flips]))
            if len(self.flips) == 1:
                return logits
            for flip, mirrored in zip(flips, torch.split(logits, len(tiles)), strict=True):
                if total is None:  # the sum never writes into the network's output
                    total = torch.zeros(mirrored.shape, device=mirrored.device)
                self._add_flipped(total, mirrored, flip)
        return tiles if total is None else total.div_(len(self.flips))

    def _add_flipped(self, total: Tensor, mirrored: Tensor, flip: list[int]) -> None:
        heads = self.swap.heads if self._swaps(flip) and self.swap is not None else None
        for low in range(0, total.shape[1], _CHANNELS_AT_ONCE):  # flip copies, so not all channels at once
            channels = slice(low, low + _CHANNELS_AT_ONCE)
            part = mirrored[:, channels] if heads is None else mirrored[:, heads[channels]]
            total[:, channels] += part.flip(flip)

    def _mirrored(self, tiles: Tensor, flip: list[int]) -> Tensor:
        flipped = tiles.flip(flip) if flip else tiles
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

    def _fit_to_memory(self, network: Network, tile: Tensor) -> None:
        """Lower `samples` to what is free on a CUDA device, judged by the memory of one sample."""
        self._measured = True
        if self.samples == 1:
            return
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._run(network, tile.to(self.device))
        one = max(1, torch.cuda.max_memory_allocated(self.device) - before)
        release(self.device)
        free, _ = torch.cuda.mem_get_info(self.device)
        affordable = max(1, int(_MEMORY_SHARE * free / one))
        if affordable < self.samples:
            self.samples = affordable
            self.notes.append(f"batches of {self.samples}: what the free memory of {self.device} holds")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory is lacking, on whatever device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def release(device: torch.device) -> None:
    """Give the device's unused memory back, so that a smaller allocation finds room in one piece."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
