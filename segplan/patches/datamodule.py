"""The LightningDataModule of a fold."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule, Trainer

from segplan.augmentation import build_pipeline, plain_pipeline
from segplan.augmentation.cascade import with_previous_masks
from segplan.dataset import Labels, Split
from segplan.errors import ConfigError, StoreError
from segplan.patches.augmentation_device import Place, Sides, check_device, choose, measure
from segplan.patches.choice import CaseChoice, cases_of_classes, weights_of
from segplan.patches.dataset import TRAINING, VALIDATION, PatchCases, PatchDataset
from segplan.patches.loader import PatchLoader
from segplan.patches.memory import size_text
from segplan.patches.oversampling import Oversampling, rank_share
from segplan.patches.placement import check_jitter
from segplan.patches.slots import SlotLayout
from segplan.patches.worker_pool import slots_needed
from segplan.patches.workers import auto_num_workers, choose_start_method
from segplan.preprocessing import ANNOTATED, CascadeCases, CaseStore, StageSegmentations, location_keys

_log = logging.getLogger(__name__)


class PatchDataModule(LightningDataModule):
    """Foreground-oversampled, augmented training patches and random validation patches of one fold.

    Batches are {"image": (B, C, *patch) float32, "labels": (B, *patch) int16, "case": list of B names}. Training goes
    on at the batch that the trainer's counters say is due, in mid-epoch too. Under DDP `batch_size` is the global one;
    each rank makes its share. Where the accelerator augments, a batch becomes so in `on_after_batch_transfer`.

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
        foreground_jitter: how far from its middle a forced patch may show the voxel it is forced onto: below 1 a share
            of the patch's size, from 1 on voxels; 0 centres it.
        class_balance: draw the class of a forced patch first, uniformly among those of the dataset, then a case that
            has it.
        case_weights: how often a training case is drawn, relative to the others; see `weights_of`.
        num_workers: loader processes for training, or "auto"; validation takes half as many, at least one.
        start_method: how these are started: fork, spawn, forkserver, or "auto" (`choose_start_method`).
        seed: decides every patch.
        previous: folder of `StageSegmentations`, of a cascade's first stage; the images then have a mask for each
            foreground label as their last channels.

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
        foreground_jitter: float = 0.0,
        class_balance: bool = False,
        case_weights: Mapping[str, float] | str | None = None,
        num_workers: int | Literal["auto"] = "auto",
        start_method: Literal["auto", "fork", "spawn", "forkserver"] = "auto",
        seed: int = 0,
        previous: Path | None = None,
    ) -> None:
        super().__init__()
        _check_num_workers(num_workers)
        check_jitter(foreground_jitter)
        _check_class_balance(class_balance)
        self.store = CaseStore(Path(store_folder))
        self.split = split
        self.patch_size = tuple(patch_size)
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.val_batches = val_batches
        self.foreground_jitter = foreground_jitter
        self.class_balance = class_balance
        self.case_weights = weights_of(case_weights, split.train, self.store.identifiers())
        self.num_workers = num_workers
        self.start_method = choose_start_method(start_method)
        self.seed = seed
        self.augmentation_device = str(augmentation.get("device", "cpu"))
        self._chosen_place: Place | None = None
        self.cases: PatchCases = self.store
        previous_labels: tuple[int, ...] = ()
        if previous is not None:
            self.cases = CascadeCases(self.store, StageSegmentations(Path(previous)))
            previous_labels = labels.indexed.foreground_labels
        self.pipeline = build_pipeline(
            augmentation,
            patch_size,
            use_mask_for_norm,
            label_values=labels.all_labels,
            previous_labels=previous_labels,
            ignore_label=labels.indexed.ignore,
        )
        self.val_pipeline = plain_pipeline(patch_size, len(use_mask_for_norm), previous_labels)
        self.oversampling = Oversampling(batch_size, foreground_fraction, oversampling)
        self._location_keys = set(location_keys(labels.indexed))
        self._loaders: list[PatchLoader] = []
        self._train_loader: PatchLoader | None = None

    @property
    def mirror_axes(self) -> tuple[int, ...] | None:
        """Spatial axes that training mirrors and prediction may mirror; None for none."""
        return self.pipeline.mirror_axes

    def setup(self, stage: str) -> None:
        """Check that the store holds the fold's cases, and that the settings oversample what they promise."""
        self._check_store()
        check_device(self.augmentation_device, self._device_type())
        rule = self.oversampling
        if rule.fraction > 0 and rule.rule == "per_batch" and rule.forced_per_batch == 0:
            _log.warning(
                "with data.batch_size=%d the per-batch rule forces no patch onto foreground; "
                "use data.oversampling=probabilistic",
                self.batch_size,
            )

    def train_dataloader(self) -> PatchLoader:
        """Return the training loader."""
        workers = self._workers()[0]
        self._train_loader = self._loader(self.train_dataset(), self.batches_per_epoch, self._next_train_batch, workers)
        return self._train_loader

    def training_batch(self, number: int) -> dict[str, Any]:
        """Make this rank's training batch `number`, counted from the start of training, again, as training saw it."""
        batch = self._loader(self.train_dataset(), self.batches_per_epoch, lambda: number, 0).make(number)
        if self.trainer is not None and "source" in batch:
            batch = self.trainer.strategy.batch_to_device(batch)
        return self.on_after_batch_transfer(batch, 0)

    def val_dataloader(self) -> PatchLoader:
        """Return the loader of random validation patches, cut out as they lie."""
        dataset = PatchDataset(
            self.cases,
            self.split.validation,
            pipeline=self.val_pipeline,
            oversampling=self.oversampling,
            seed=self.seed,
            stream=VALIDATION,
        )
        return self._loader(dataset, self.val_batches, self._next_val_batch, (self._workers()[0] + 1) // 2)

    def train_dataset(self) -> PatchDataset:
        """Return the stream of training samples."""
        return self._train_dataset(on_device=self.augmentation_place == "accelerator")

    def _train_dataset(self, on_device: bool) -> PatchDataset:
        return PatchDataset(
            self.cases,
            self._choice(),
            pipeline=self.pipeline,
            oversampling=self.oversampling,
            seed=self.seed,
            stream=TRAINING,
            foreground_jitter=self.foreground_jitter,
            on_device=on_device,
        )

    @property
    def augmentation_place(self) -> Place:
        """Where training patches are augmented now; with device=auto that may change after the first epoch."""
        if self.augmentation_device == "auto":
            return self._chosen_place or "cpu"
        return "cpu" if self.augmentation_device == "cpu" else "accelerator"

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augment on the accelerator what the workers have only read."""
        if "source" not in batch:
            return batch
        with torch.no_grad():
            images, labels = self.pipeline.apply_batch(batch["image"], batch["labels"], batch["source"])
            if previous := self.pipeline.context.previous_labels:
                images, labels = with_previous_masks(images, labels, previous)
        return {"image": images, "labels": labels[:, 0], "case": batch["case"]}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: where device=auto decided to augment, so that a resumed run goes on there."""
        return {} if self._chosen_place is None else {"augmentation_place": self._chosen_place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._chosen_place = state_dict.get("augmentation_place")

    def loading(self) -> str:
        """How patches get into training, and why so, in one line."""
        workers, reason = self._workers()
        if workers == 0:
            return f"{reason}; patches are made in the training process"
        samples = len(self._share())
        size = SlotLayout(self.train_dataset().array_layout, samples).size * slots_needed(workers, samples)
        return f"{reason}; {self.start_method}, {size_text(size)} of shared memory that /dev/shm does not limit"

    def teardown(self, stage: str) -> None:
        """End the worker processes."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def on_exception(self, exception: BaseException) -> None:
        """End the worker processes of an interrupted training; Lightning calls no `teardown` then."""
        self.teardown("fit")

    def _choice(self) -> CaseChoice:
        cases = tuple(self.split.train)
        classes = None
        if self.class_balance:
            classes = cases_of_classes((self.store.open(case).ranges for case in cases), without=ANNOTATED)
        return CaseChoice(cases, self.case_weights, classes)

    def _loader(self, dataset: PatchDataset, batches: int, next_batch: Callable[[], int], workers: int) -> PatchLoader:
        loader = PatchLoader(
            dataset,
            batch_size=self.batch_size,
            share=self._share(),
            batches_per_epoch=batches,
            next_batch=next_batch,
            num_workers=workers,
            start_method=self.start_method,
            pin_memory=self._device_type() == "cuda",
        )
        self._loaders.append(loader)
        return loader

    def _share(self) -> range:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return rank_share(self.batch_size, rank, world_size)

    def _device_type(self) -> str:
        return "cpu" if self.trainer is None else str(self.trainer.strategy.root_device.type)

    def _workers(self) -> tuple[int, str]:
        """The number of loader processes of training, and its reason."""
        if self.num_workers != "auto":
            plural = "" if self.num_workers == 1 else "es"
            return self.num_workers, f"{self.num_workers} loader process{plural}: asked for"
        devices = 1 if self.trainer is None else self.trainer.num_devices
        return auto_num_workers(self._device_type(), devices, self.train_dataset().sample_bytes)

    def _next_train_batch(self) -> int:
        if self.trainer is None:
            return 0
        self._choose_place(self.trainer)
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return self.trainer.current_epoch * self.batches_per_epoch + done

    def _choose_place(self, trainer: Trainer) -> None:
        """With device=auto, decide after the first epoch of this process where to augment, where there is a choice."""
        is_open = self.augmentation_device == "auto" and self._chosen_place is None
        if not is_open or self._device_type() == "cpu" or trainer.current_epoch == 0:
            return
        logged = trainer.callback_metrics  # of the epoch that has ended
        if "waiting_share" not in logged:
            return  # resumed at an epoch's start: nothing is measured yet, so after this epoch
        waiting, samples_per_s = (float(logged.get(key, 0.0)) for key in ("waiting_share", "samples_per_s"))
        step = (1 - waiting) / samples_per_s if samples_per_s else 0.0
        workers = self._workers()[0]
        sides = Sides(0, 0, 0, step)
        if waiting > 0:
            device = trainer.strategy.root_device
            sides = measure(self._train_dataset(False), self._train_dataset(True), device, step)
        place, reason = trainer.strategy.broadcast(choose(sides, workers, waiting))
        self._chosen_place = place
        _log.warning("patches are augmented on the %s from now on: %s", place, reason)
        if place == "accelerator" and self._train_loader is not None:
            self._train_loader.use(self.train_dataset())

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


def _check_class_balance(class_balance: bool) -> None:
    if not isinstance(class_balance, bool):
        raise ConfigError(f"{class_balance!r} is neither true nor false", "data.class_balance", "Use true or false.")


def _check_num_workers(num_workers: int | str) -> None:
    is_number = isinstance(num_workers, int) and not isinstance(num_workers, bool) and num_workers >= 0
    if num_workers != "auto" and not is_number:
        raise ConfigError(f"{num_workers!r} is no number of processes", "data.num_workers", "Use auto, 0 or more.")
