"""Training and validation patches: sample number i is a pure function of the seed and i."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segplan.augmentation import Box3, Params, Pipeline
from segplan.augmentation.cascade import previous_as_masks
from segplan.augmentation.spatial import LabelMaps
from segplan.errors import DatasetError
from segplan.patches.choice import CaseChoice
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


@runtime_checkable
class CascadePatchCase(PatchCase, Protocol):
    """A case of a cascade's second stage."""

    @property
    def previous(self) -> np.ndarray:
        """(Z, Y, X) integer: what the first stage segmented, as label indices."""


class PatchCases(Protocol):
    """Where cases come from: a `CaseStore`, or anything picklable that opens cases by name."""

    def open(self, identifier: str) -> PatchCase:
        """Return the case with this name."""


@dataclass(frozen=True)
class Draw:
    """What a sample is: all that is needed to make it, and to make it again.

    Args:
        case: its case.
        is_forced: whether it must show foreground.
        params: of the transforms that act on it.
        box: where in the case it lies.
    """

    case: str
    is_forced: bool
    params: Params
    box: Box3


class PatchDataset(Dataset[dict[str, Any]]):
    """An endless stream of patches, addressed by global sample number.

    Every sample has its own random stream (Philox, keyed by seed and index), so that it is the same whichever worker
    or rank makes it, and in whatever order.

    Where the pipeline has labels of a previous stage, cases are `CascadePatchCase`s, whose previous segmentation is cut
    and augmented with the labels; the image gets a mask for each of these labels as its last channels.

    Args:
        cases: what opens a case by name.
        choice: the cases to draw from, and how; plain names are drawn uniformly.
        pipeline: cuts and augments.
        oversampling: which samples must show foreground.
        seed: not negative.
        stream: `TRAINING` or `VALIDATION`, whose samples never coincide.
        foreground_jitter: how far forced samples may be moved off the voxel they are forced onto, see `jitter_reach`.
        on_device: only read what samples need; `Pipeline.apply_batch` augments them where the network computes.

    Raises:
        DatasetError: there is no case to draw from.
    """

    def __init__(
        self,
        cases: PatchCases,
        choice: CaseChoice | Sequence[str],
        *,
        pipeline: Pipeline,
        oversampling: Oversampling,
        seed: int,
        stream: int = TRAINING,
        foreground_jitter: float = 0.0,
        on_device: bool = False,
    ) -> None:
        choice = choice if isinstance(choice, CaseChoice) else CaseChoice(tuple(choice))
        if not choice.identifiers:
            kind = "training" if stream == TRAINING else "validation"
            raise DatasetError(f"there are no {kind} cases", "fold", "Use another fold, or fold=all.")
        self.cases = cases
        self.choice = choice
        self.pipeline = pipeline
        self.oversampling = oversampling
        self.seed = seed
        self.stream = stream
        self.foreground_jitter = foreground_jitter
        self.on_device = on_device
        self._opened: dict[str, PatchCase] = {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make sample number `index`.

        Returns:
            "image" (C, *patch) float32, "labels" (*patch) int16 without -1, "case" its name; on an accelerator
            instead voxels (C, N) and labels (L, N) with the "source" that `Pipeline.read` describes: without the masks
            of a previous segmentation, which is the second of the labels.
        """
        return self.make(index)

    def make(self, index: int, out: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Make sample number `index`, with its arrays written into those of `out`, if given."""
        draw = self.draw(index)
        case = self.open(draw.case)
        arrays = case.image, self.label_maps(case)
        if self.on_device:
            room = None if out is None else (out["image"], out["labels"])
            voxels, voxel_labels, source = self.pipeline.read(*arrays, draw.params, draw.box, out=room)
            return {"image": voxels, "labels": voxel_labels, "case": draw.case, "source": source}
        if self._previous_labels:
            return self._cascade_sample(arrays, draw, out)
        place = None if out is None else (out["image"], out["labels"][None])
        patch, patch_labels = self.pipeline.apply(*arrays, draw.params, draw.box, out=place)
        return {"image": patch, "labels": patch_labels[0], "case": draw.case}

    def label_maps(self, case: PatchCase) -> LabelMaps:
        """The labels that the pipeline works on: the case's, and in a cascade the previous segmentation after them."""
        if not self._previous_labels:
            return case.labels[None]
        if not isinstance(case, CascadePatchCase):
            raise DatasetError("the cases have no segmentations of a previous stage", "data")
        return case.labels, case.previous

    def _cascade_sample(
        self, arrays: tuple[np.ndarray, LabelMaps], draw: Draw, out: Mapping[str, Tensor] | None
    ) -> dict[str, Any]:
        channels, patch = self.pipeline.context.channels, self.pipeline.context.patch_size
        image = torch.empty(self.array_layout["image"][0]) if out is None else out["image"]
        labels = torch.empty((2, *patch), dtype=torch.int16)
        self.pipeline.apply(*arrays, draw.params, draw.box, out=(image[:channels], labels))
        previous_as_masks(labels, self._previous_labels, image[channels:])
        target = labels[0] if out is None else out["labels"].copy_(labels[0])
        return {"image": image, "labels": target, "case": draw.case}

    @property
    def _previous_labels(self) -> tuple[int, ...]:
        return self.pipeline.context.previous_labels

    def draw(self, index: int) -> Draw:
        """Decide what sample number `index` is; of its case, the shape and some locations are read."""
        rng = sample_generator(self.seed, self.stream, index)
        identifier, key, is_forced = self._choose(index, rng)
        params = self.pipeline.sample(rng)
        case = self.open(identifier)
        shape = case.image.shape
        box = place_box(
            rng,
            shape=(shape[1], shape[2], shape[3]),
            box_size=self.pipeline.initial_patch_size,
            patch_size=self.pipeline.patch_box_size,
            locations=case.locations,
            is_forced=is_forced,
            key=key,
            jitter=self.foreground_jitter,
        )
        return Draw(identifier, is_forced, params, box)

    @property
    def array_layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type name of each array of a sample."""
        context = self.pipeline.context
        if self.on_device:
            voxels, maps = self.pipeline.source_voxels, 1 + bool(context.previous_labels)
            return {"image": ((context.channels, voxels), "float32"), "labels": ((maps, voxels), "int16")}
        return {
            "image": ((context.channels + len(context.previous_labels), *context.patch_size), "float32"),
            "labels": (tuple(context.patch_size), "int16"),
        }

    @property
    def sample_bytes(self) -> int:
        """Bytes of the arrays of a sample."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.array_layout.values())

    def warm_up(self) -> None:
        """Load what samples need and what takes long to load."""
        if self.pipeline.spatial is not None:
            importlib.import_module("segplan.augmentation.warp")
        if self.pipeline.transforms and not self.on_device:
            importlib.import_module("segplan.augmentation.kernels")

    def case_of(self, index: int) -> str:
        """The case that sample number `index` is taken from; nothing is read."""
        return self._choose(index, sample_generator(self.seed, self.stream, index))[0]

    def _choose(self, index: int, rng: np.random.Generator) -> tuple[str, str | None, bool]:
        """Draw the case, the class to centre on if it was drawn first, and whether foreground is forced."""
        identifier = self.choice.draw(rng)
        is_forced = self.oversampling.is_forced(index, rng)
        balanced = self.choice.draw_for_class(rng) if is_forced else None
        if balanced is None:
            return identifier, None, is_forced
        key, identifier = balanced
        return identifier, key, is_forced

    def __getstate__(self) -> dict[str, Any]:
        """Leave opened cases behind when a worker is started."""
        return self.__dict__ | {"_opened": {}}

    def open(self, identifier: str) -> PatchCase:
        """Return the case with this name."""
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
