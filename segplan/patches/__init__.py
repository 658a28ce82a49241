"""Patches: foreground-oversampled sampling, the dataset of patches and the LightningDataModule."""

from segplan.patches.datamodule import PatchDataModule
from segplan.patches.dataset import PatchDataset
from segplan.patches.loader import PatchLoader
from segplan.patches.oversampling import Oversampling, rank_share
from segplan.patches.placement import lower_corner_bounds, place_box
from segplan.patches.workers import auto_num_workers

__all__ = [
    "Oversampling",
    "PatchDataModule",
    "PatchDataset",
    "PatchLoader",
    "auto_num_workers",
    "lower_corner_bounds",
    "place_box",
    "rank_share",
]
