"""Training and validation patches: sample number i is a pure function of the seed and i."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from segplan.augmentation import Pipeline
from segplan.errors import DatasetError
from segplan.patches.oversampling import Oversampling
from segplan.patches.placement import place_box

TRAINING, VALIDATION = 0, 1
"""Numbers of the two random streams of a seed."""


class PatchCase(Protocol):
    """What is needed of a stored case; arrays are best mapped when asked for."""

    @property
    def image(self) -> np.ndarray:
        """(C, Z, Y, X) float32."""

    @property
    def labels(self) -> np.ndarray:
        """(Z, Y, X) integer, -1 outside the nonzero mask."""

    @property
    def locations(self) -> Mapping[str, np.ndarray]:
        """Per class key (N, 3) voxel indices."""


class PatchCases(Protocol):
    """Where cases come from: a `CaseStore`, or anything picklable that opens cases by name."""

    def open(self, identifier: str) -> PatchCase:
        """Return the case with this name."""


class PatchDataset(Dataset[dict[str, Any]]):
    """An endless stream of patches, addressed by global sample number.

    Every sample has its own random stream (Philox, keyed by seed and index), so that it is the same whichever worker
    or rank makes it, and in whatever order.

    Args:
        cases: what opens a case by name.
        identifiers: the cases to draw from, uniformly with replacement.
        pipeline: cuts and augments.
        oversampling: which samples must show foreground.
        seed: not negative.
        stream: `TRAINING` or `VALIDATION`, whose samples never coincide.

    Raises:
        DatasetError: there is no case to draw from.
    """

    def __init__(
        self,
        cases: PatchCases,
        identifiers: Sequence[str],
        *,
        pipeline: Pipeline,
        oversampling: Oversampling,
        seed: int,
        stream: int = TRAINING,
    ) -> None:
        if not identifiers:
            kind = "training" if stream == TRAINING else "validation"
            raise DatasetError(f"there are no {kind} cases", "fold", "Use another fold, or fold=all.")
        self.cases = cases
        self.identifiers = tuple(identifiers)
        self.pipeline = pipeline
        self.oversampling = oversampling
        self.seed = seed
        self.stream = stream
        self._opened: dict[str, PatchCase] = {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make sample number `index`.

        Returns:
            "image" (C, *patch) float32, "labels" (*patch) int16 without -1, "case" its name.
        """
        rng = sample_generator(self.seed, self.stream, index)
        identifier = self.identifiers[rng.integers(len(self.identifiers))]
        is_forced = self.oversampling.is_forced(index, rng)
        params = self.pipeline.sample(rng)
        case = self._open(identifier)
        image, labels = case.image, case.labels
        shape = (image.shape[1], image.shape[2], image.shape[3])
        box = place_box(
            rng,
            shape=shape,
            box_size=self.pipeline.initial_patch_size,
            patch_size=self.pipeline.patch_box_size,
            locations=case.locations,
            is_forced=is_forced,
        )
        patch, patch_labels = self.pipeline.apply(image, labels[None], params, box)
        return {"image": patch, "labels": patch_labels[0], "case": identifier}

    def __getstate__(self) -> dict[str, Any]:
        """Leave opened cases behind when a worker is started."""
        return self.__dict__ | {"_opened": {}}

    def _open(self, identifier: str) -> PatchCase:
        # A case's description is kept, a few hundred bytes; its arrays are mapped anew for each sample, so that
        # neither memory nor open files grow with the number of cases.
        if identifier not in self._opened:
            self._opened[identifier] = self.cases.open(identifier)
        return self._opened[identifier]


def sample_generator(seed: int, stream: int, index: int) -> np.random.Generator:
    """Return the random stream of one sample; streams of different (seed, stream, index) never overlap."""
    key = np.array([seed, index], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))
