"""Loaders of a small store, for tests and for the programs that tests start: imports neither pytest nor Lightning."""

from pathlib import Path

from omegaconf import OmegaConf

from segplan.augmentation import build_pipeline
from segplan.patches import Oversampling, PatchDataset, PatchLoader

DEFAULT = OmegaConf.load(Path(__file__).parents[2] / "configs" / "augmentation" / "default.yaml")
BATCHES = 8
BATCH_SIZE = 3


def make_dataset(store, pipeline=None):
    pipeline = pipeline or build_pipeline(DEFAULT, (16, 16, 16), (False, True))
    return PatchDataset(store, store.identifiers(), pipeline=pipeline, oversampling=Oversampling(BATCH_SIZE), seed=0)


class Run:
    """A loader of an epoch of `BATCHES`, whose counter of batches stands in for the trainer's."""

    def __init__(self, dataset, num_workers, start=0, **changes):
        self.due = start
        settings = {"batch_size": BATCH_SIZE, "share": range(BATCH_SIZE), "batches_per_epoch": BATCHES}
        self.loader = PatchLoader(dataset, next_batch=lambda: self.due, num_workers=num_workers, **(settings | changes))

    def take(self, count):
        """The next `count` batches, passing from epoch to epoch; left in mid-epoch the loader is as if killed there."""
        taken = []
        while len(taken) < count:
            for batch in self.loader:
                taken.append({**batch, "image": batch["image"].clone(), "labels": batch["labels"].clone()})
                self.due += 1
                if len(taken) == count:
                    break
        return taken
