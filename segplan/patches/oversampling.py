"""Which samples of a batch must show foreground, and which samples of a global batch belong to which rank."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from segplan.errors import ConfigError


@dataclass(frozen=True)
class Oversampling:
    """The rule that forces a share of the patches onto foreground.

    Args:
        batch_size: samples of a global batch, over all ranks.
        fraction: wanted share of forced samples.
        rule: "per_batch" forces the same number in every batch, its last samples: those j >= round(B·(1 - f)), with
            Python's rounding of halves to even (nnU-Net 2.8.1; 9 samples at 0.33 give 3, a single one none).
            "probabilistic" forces each sample with probability f.
    """

    batch_size: int
    fraction: float = 0.33
    rule: Literal["per_batch", "probabilistic"] = "per_batch"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"{self.batch_size} samples are no batch", "data.batch_size", "Use 1 or more.")
        if not isinstance(self.fraction, int | float) or not 0 <= self.fraction <= 1:
            raise ConfigError(f"{self.fraction!r} is no share", "data.foreground_fraction", "Use a number from 0 to 1.")
        if self.rule not in ("per_batch", "probabilistic"):
            raise ConfigError(f"{self.rule!r} is no rule", "data.oversampling", "Use per_batch or probabilistic.")

    @property
    def forced_per_batch(self) -> int:
        """Number of forced samples in a batch by the per-batch rule."""
        return self.batch_size - round(self.batch_size * (1 - self.fraction))

    def is_forced(self, index: int, rng: np.random.Generator) -> bool:
        """Whether the sample with this global `index` must show foreground."""
        if self.rule == "probabilistic":
            return bool(rng.random() < self.fraction)
        return index % self.batch_size >= self.batch_size - self.forced_per_batch


def rank_share(batch_size: int, rank: int, world_size: int) -> range:
    """Return which samples of each global batch a rank makes: contiguous shares, the first ranks' larger by one.

    A sample's place in the global batch decides whether it is forced, so the batch does not depend on the ranks.

    Raises:
        ConfigError: there are more ranks than samples.
    """
    if batch_size < world_size:
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared by {world_size} devices",
            where="data.batch_size",
            remedy=f"Use data.batch_size={world_size} or more, or fewer devices (trainer.devices).",
        )
    size, larger = divmod(batch_size, world_size)
    start = rank * size + min(rank, larger)
    return range(start, start + size + (rank < larger))
