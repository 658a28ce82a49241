"""Patches: foreground-oversampled sampling, the dataset of patches and the LightningDataModule."""

from typing import TYPE_CHECKING, Any

from segplan.patches.choice import CaseChoice, cases_of_classes, weights_of
from segplan.patches.dataset import PatchDataset
from segplan.patches.loader import PatchLoader
from segplan.patches.oversampling import Oversampling, rank_share
from segplan.patches.placement import jitter_reach, lower_corner_bounds, place_box
from segplan.patches.workers import auto_num_workers

if TYPE_CHECKING:
    from segplan.patches.datamodule import PatchDataModule

__all__ = [
    "CaseChoice",
    "Oversampling",
    "PatchDataModule",
    "PatchDataset",
    "PatchLoader",
    "auto_num_workers",
    "cases_of_classes",
    "jitter_reach",
    "lower_corner_bounds",
    "place_box",
    "rank_share",
    "weights_of",
]


def __getattr__(name: str) -> Any:
    """Import Lightning with `PatchDataModule` only: a loader process that is spawned does without it."""
    if name == "PatchDataModule":
        from segplan.patches.datamodule import PatchDataModule

        return PatchDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
