"""The LightningDataModule of a fold."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule

from segplan.augmentation import Pipeline, build_pipeline, plain_pipeline
from segplan.dataset import Labels, Split
from segplan.errors import ConfigError, StoreError
from segplan.patches.dataset import TRAINING, VALIDATION, PatchDataset
from segplan.patches.loader import PatchLoader
from segplan.patches.oversampling import Oversampling, rank_share
from segplan.patches.workers import auto_num_workers
from segplan.preprocessing import CaseStore, location_keys

_log = logging.getLogger(__name__)


class PatchDataModule(LightningDataModule):
    """Foreground-oversampled, augmented training patches and random validation patches of one fold.

    Batches are {"image": (B, C, *patch) float32, "labels": (B, *patch) int16, "case": list of B names}. Training goes
    on at the batch that the trainer's counters say is due, in mid-epoch too. Under DDP `batch_size` is the global one;
    each rank makes its share.

    Args:
        store_folder: case store of the configuration.
        split: cases to train on and to validate with.
        labels: the dataset's labels, which the store must have been made for.
        patch_size: network patch, 2 or 3 entries.
        batch_size: samples of a batch, over all ranks.
        augmentation: the configuration node, see `build_pipeline`.
        use_mask_for_norm: per channel, whether it was normalised within the nonzero mask.
        batches_per_epoch: training batches of an epoch.
        val_batches: validation batches of an epoch; new random patches each epoch, the same in every run of a seed.
        foreground_fraction: share of patches that must show foreground.
        oversampling: see `Oversampling`.
        num_workers: loader processes for training, or "auto"; validation takes half as many, at least one.
        seed: decides every patch.

    Raises:
        ConfigError: a value that cannot work.
        StoreError: a case is missing or was made for other labels.
    """

    def __init__(
        self,
        store_folder: Path,
        split: Split,
        labels: Labels,
        *,
        patch_size: Sequence[int],
        batch_size: int,
        augmentation: Mapping[str, Any],
        use_mask_for_norm: Sequence[bool],
        batches_per_epoch: int,
        val_batches: int,
        foreground_fraction: float = 0.33,
        oversampling: Literal["per_batch", "probabilistic"] = "per_batch",
        num_workers: int | Literal["auto"] = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_num_workers(num_workers)
        self.store = CaseStore(Path(store_folder))
        self.split = split
        self.patch_size = tuple(patch_size)
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.val_batches = val_batches
        self.num_workers = num_workers
        self.seed = seed
        self.pipeline = build_pipeline(augmentation, patch_size, use_mask_for_norm)
        self.val_pipeline = plain_pipeline(patch_size, len(use_mask_for_norm))
        self.oversampling = Oversampling(batch_size, foreground_fraction, oversampling)
        self._location_keys = set(location_keys(labels))
        self._loaders: list[PatchLoader] = []

    @property
    def mirror_axes(self) -> tuple[int, ...] | None:
        """Spatial axes that training mirrors and prediction may mirror; None for none."""
        return self.pipeline.mirror_axes

    def setup(self, stage: str) -> None:
        """Check that the store holds the fold's cases, and that the settings oversample what they promise."""
        self._check_store()
        rule = self.oversampling
        if rule.fraction > 0 and rule.rule == "per_batch" and rule.forced_per_batch == 0:
            _log.warning(
                "with data.batch_size=%d the per-batch rule forces no patch onto foreground; "
                "use data.oversampling=probabilistic",
                self.batch_size,
            )

    def train_dataloader(self) -> PatchLoader:
        """Return the training loader."""
        dataset = self._dataset(self.split.train, self.pipeline, TRAINING)
        return self._loader(dataset, self.batches_per_epoch, self._next_train_batch, self._workers())

    def val_dataloader(self) -> PatchLoader:
        """Return the loader of random validation patches, cut out as they lie."""
        dataset = self._dataset(self.split.validation, self.val_pipeline, VALIDATION)
        workers = self._workers()
        return self._loader(dataset, self.val_batches, self._next_val_batch, (workers + 1) // 2)

    def teardown(self, stage: str) -> None:
        """End the worker processes."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def on_exception(self, exception: BaseException) -> None:
        """End the worker processes of an interrupted training; Lightning calls no `teardown` then."""
        self.teardown("fit")

    def _dataset(self, identifiers: Sequence[str], pipeline: Pipeline, stream: int) -> PatchDataset:
        return PatchDataset(
            self.store,
            identifiers,
            pipeline=pipeline,
            oversampling=self.oversampling,
            seed=self.seed,
            stream=stream,
        )

    def _loader(self, dataset: PatchDataset, batches: int, next_batch: Callable[[], int], workers: int) -> PatchLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        share = rank_share(self.batch_size, rank, world_size)
        loader = PatchLoader(
            dataset,
            batch_size=self.batch_size,
            share=share,
            batches_per_epoch=batches,
            next_batch=next_batch,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )
        self._loaders.append(loader)
        return loader

    def _workers(self) -> int:
        if self.num_workers != "auto":
            return self.num_workers
        if self.trainer is None:
            return auto_num_workers("cpu")[0]
        devices = self.trainer.num_devices
        return auto_num_workers(self.trainer.strategy.root_device.type, devices)[0]

    def _next_train_batch(self) -> int:
        if self.trainer is None:
            return 0
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return self.trainer.current_epoch * self.batches_per_epoch + done

    def _next_val_batch(self) -> int:
        return self.trainer.current_epoch * self.val_batches if self.trainer else 0

    def _check_store(self) -> None:
        missing = sorted({*self.split.train, *self.split.validation} - set(self.store.identifiers()))
        if missing:
            raise StoreError(
                f"{len(missing)} cases of the fold are not preprocessed, {missing[0]} among them",
                self.store.folder,
                "Run plan.py for the dataset again.",
            )
        case = self.store.open(self.split.train[0] if self.split.train else self.split.validation[0])
        if set(case.ranges) != self._location_keys:
            raise StoreError(
                f"the cases were preprocessed for other labels ({', '.join(case.ranges)})",
                self.store.folder,
                "Run plan.py for the dataset with force=true.",
            )


def _check_num_workers(num_workers: int | str) -> None:
    is_number = isinstance(num_workers, int) and num_workers >= 0
    if num_workers != "auto" and not is_number:
        raise ConfigError(f"{num_workers!r} is no number of processes", "data.num_workers", "Use auto, 0 or more.")
