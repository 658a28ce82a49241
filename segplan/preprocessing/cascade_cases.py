"""Cases of a cascade's second stage: those of a store, each with what the first stage made of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segplan.errors import StoreError
from segplan.preprocessing.stage_segmentations import StageSegmentations
from segplan.preprocessing.store import CaseStore, StoredCase


@dataclass(frozen=True)
class CascadeCase:
    """A stored case and its previous segmentation. Small and picklable: arrays are mapped when asked for.

    Args:
        stored: the case.
        segmentations: where its previous segmentation is.
    """

    stored: StoredCase
    segmentations: StageSegmentations

    @property
    def image(self) -> NDArray[np.float32]:
        """(C, Z, Y, X), memory-mapped, read-only."""
        return self.stored.image

    @property
    def labels(self) -> NDArray[np.integer]:
        """(Z, Y, X) int8 or int16, memory-mapped, read-only."""
        return self.stored.labels

    @property
    def locations(self) -> dict[str, NDArray[np.int32]]:
        """Per class an (N, 3) array of voxel indices, memory-mapped, read-only."""
        return self.stored.locations

    @property
    def previous(self) -> NDArray[np.integer]:
        """(Z, Y, X) int8 or int16, memory-mapped, read-only."""
        return self.segmentations.open(self.stored.identifier)


@dataclass(frozen=True)
class CascadeCases:
    """Opens cases by name.

    Args:
        store: of the second stage's configuration.
        segmentations: of the first stage, made for it.
    """

    store: CaseStore
    segmentations: StageSegmentations

    def open(self, identifier: str) -> CascadeCase:
        """Return the case with this name.

        Raises:
            StoreError: it is not there, has no previous segmentation, or one of another shape.
        """
        case = self.store.open(identifier)
        shape, made_for = case.properties.shape, self.segmentations.shape(identifier)
        if made_for != shape:
            what = f"the first stage's segmentation of {identifier} has {made_for} voxels, the case {shape}"
            remedy = "Plan both stages again, or remove the folder and make it anew: segplan cascade DATASET."
            raise StoreError(what, self.segmentations.folder, remedy)
        return CascadeCase(case, self.segmentations)
