import contextlib
import logging
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from small_store import LABELS, write_store

from segplan.dataset import Labels, Split
from segplan.errors import ConfigError, StoreError
from segplan.patches import PatchDataModule, auto_num_workers, workers

DEFAULT = OmegaConf.load(Path(__file__).parents[2] / "configs" / "augmentation" / "default.yaml")
SPLIT = Split(("case0", "case1"), ("case2",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, [(20, 22, 18), (12, 14, 16), (18, 18, 18)])
    return folder


def module(folder, **changes):
    settings = {
        "patch_size": (8, 8, 8),
        "batch_size": 3,
        "augmentation": DEFAULT,
        "use_mask_for_norm": (False, False),
        "batches_per_epoch": 4,
        "val_batches": 2,
        "num_workers": 0,
    }
    return PatchDataModule(folder, SPLIT, LABELS, **(settings | changes))


class Recorder(LightningModule):
    """Notes every batch; stops in mid-epoch when told to."""

    def __init__(self, stop_after: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.train_batches, self.val_batches = [], []
        self.stop_after = stop_after

    def training_step(self, batch, batch_idx):
        self.train_batches.append((self.current_epoch, batch_idx, batch["case"], batch["image"].clone()))
        return self.weight.sum() * batch["image"].mean()

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.val_batches.append((self.current_epoch, batch_idx, batch["case"], batch["image"].clone()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Interrupted(Exception):
    pass


class Interrupt(Callback):
    """Saves a checkpoint after a training batch and stops there, like a killed run that had just saved."""

    def __init__(self, after: int, path: Path):
        self.after, self.path = after, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if len(pl_module.train_batches) == self.after:
            trainer.save_checkpoint(self.path)
            raise Interrupted


def fit(folder, callbacks=(), ckpt_path=None, **changes):
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    with contextlib.suppress(Interrupted):
        trainer.fit(recorder, datamodule=module(folder, **changes), ckpt_path=ckpt_path)
    return recorder


def assert_same_batches(found, expected):
    assert [batch[:3] for batch in found] == [batch[:3] for batch in expected]
    assert all(torch.equal(a[3], b[3]) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def uninterrupted(folder):
    return fit(folder)


def test_every_epoch_has_its_batches_and_no_batch_comes_twice(uninterrupted):
    batches = uninterrupted.train_batches
    assert [batch[:2] for batch in batches] == [(epoch, i) for epoch in range(3) for i in range(4)]
    images = torch.stack([batch[3] for batch in batches]).flatten(1)
    assert len(images.unique(dim=0)) == 12
    validation = torch.stack([batch[3] for batch in uninterrupted.val_batches]).flatten(1)
    assert len(validation.unique(dim=0)) == 6
    assert {case for batch in uninterrupted.val_batches for case in batch[2]} == {"case2"}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(folder, uninterrupted, num_workers):
    found = fit(folder, num_workers=num_workers)
    assert_same_batches(found.train_batches, uninterrupted.train_batches)
    assert_same_batches(found.val_batches, uninterrupted.val_batches)


@pytest.mark.parametrize("after", [1, 4, 6, 8, 11])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_interrupted_training_goes_on_with_the_very_batch_that_was_due(
    folder, uninterrupted, tmp_path, after, num_workers
):
    checkpoint = tmp_path / "last.ckpt"
    first = fit(folder, [Interrupt(after, checkpoint)], num_workers=num_workers)
    assert len(first.train_batches) == after
    rest = fit(folder, ckpt_path=checkpoint, num_workers=num_workers)
    assert_same_batches(first.train_batches + rest.train_batches, uninterrupted.train_batches)


def test_ranks_share_each_batch(folder, uninterrupted):
    whole = next(iter(module(folder).train_dataloader()))
    shares = []
    for rank in range(2):
        part = module(folder)
        on_cpu = SimpleNamespace(root_device=torch.device("cpu"))
        part.trainer = SimpleNamespace(global_rank=rank, world_size=2, current_epoch=0, strategy=on_cpu)
        part._next_train_batch = lambda: 0
        shares.append(next(iter(part.train_dataloader())))
    assert [len(share["image"]) for share in shares] == [2, 1]
    assert torch.equal(torch.cat([share["image"] for share in shares]), whole["image"])


def test_batch_has_image_labels_and_case_names(folder):
    batch = next(iter(module(folder).train_dataloader()))
    assert batch.keys() == {"image", "labels", "case"}
    assert batch["image"].shape == (3, 2, 8, 8, 8)
    assert batch["labels"].shape == (3, 8, 8, 8)
    assert isinstance(batch["case"], list)
    assert set(batch["case"]) <= {"case0", "case1"}


def test_closed_module_ends_its_workers(folder):
    patches = module(folder, num_workers=1)
    loader = patches.train_dataloader()
    next(iter(loader))
    (pid,) = loader.worker_pids
    assert psutil.pid_exists(pid)
    patches.teardown("fit")
    assert not psutil.pid_exists(pid)


def test_interrupted_training_leaves_no_workers_behind(folder, tmp_path):
    before = set(multiprocessing.active_children())
    fit(folder, [Interrupt(2, tmp_path / "last.ckpt")], num_workers=1)
    left = set(multiprocessing.active_children()) - before
    for worker in left:
        worker.join(10)
    assert not any(worker.is_alive() for worker in left)


def test_missing_case_and_store_of_other_labels_are_refused(folder):
    missing = PatchDataModule(
        folder,
        Split(("case0", "case7"), ("case2",)),
        LABELS,
        patch_size=(8, 8, 8),
        batch_size=2,
        augmentation={},
        use_mask_for_norm=(False, False),
        batches_per_epoch=1,
        val_batches=1,
    )
    with pytest.raises(StoreError, match="case7"):
        missing.setup("fit")
    other = module(folder)
    other._location_keys = set(Labels.from_json({"labels": {"background": 0, "organ": 1}}).names)
    with pytest.raises(StoreError, match="other labels"):
        other.setup("fit")


def test_batch_of_one_without_forced_patches_is_said(folder, caplog):
    with caplog.at_level(logging.WARNING):
        module(folder, batch_size=1).setup("fit")
    assert "data.oversampling=probabilistic" in caplog.text


@pytest.mark.parametrize("wrong", [-1, "many", 1.5, True])
def test_impossible_number_of_workers_is_refused(folder, wrong):
    with pytest.raises(ConfigError, match="num_workers"):
        module(folder, num_workers=wrong)


def test_mirror_axes_are_those_of_the_augmentation(folder):
    assert module(folder).mirror_axes == (0, 1, 2)
    assert module(folder, augmentation={}).mirror_axes is None


@pytest.mark.parametrize(
    ("cpus", "accelerator", "devices", "expected"),
    [(1, "cpu", 1, 0), (2, "cpu", 1, 1), (64, "cpu", 1, 1), (1, "cuda", 1, 1), (6, "cuda", 1, 5), (32, "cuda", 4, 7)],
)
def test_automatic_number_of_workers_leaves_cores_to_the_network(monkeypatch, cpus, accelerator, devices, expected):
    monkeypatch.setattr(workers, "available_cpus", lambda: cpus)
    monkeypatch.setattr(workers, "available_memory", lambda: 64_000_000_000)
    number, reason = auto_num_workers(accelerator, devices)
    assert number == expected
    assert f"{cpus} CPUs" in reason


def test_memory_limits_the_number_of_workers(monkeypatch):
    monkeypatch.setattr(workers, "available_cpus", lambda: 9)
    monkeypatch.setattr(workers, "available_memory", lambda: 3_000_000_000)
    number, reason = auto_num_workers("cuda", sample_bytes=25_000_000)
    assert number == 3  # half of the memory, 0.5 GB each
    assert reason == "3 loader processes: each needs about 500 MB and 3.0 GB of memory are free"
    assert auto_num_workers("cuda", 2, sample_bytes=25_000_000)[0] == 1
    assert auto_num_workers("cuda", sample_bytes=0)[0] == 5


def test_how_patches_get_into_training_is_told_in_one_line(folder):
    assert module(folder, num_workers=0).loading().startswith("0 loader processes: asked for; patches are made in")
    told = module(folder, num_workers=2, start_method="spawn").loading()
    assert told.startswith("2 loader processes: asked for; spawn, ")
    assert told.endswith(" of shared memory that /dev/shm does not limit")


@pytest.mark.parametrize(
    ("exit_code", "workers_now", "words"),
    [
        (-9, 8, "was killed (SIGKILL) while reading case_017 (2.1 GB); free memory"),
        (-9, 1, "Use data.num_workers=0 (now 1), a smaller data.patch_size"),
        (-7, 8, "crashed (SIGBUS)"),
        (3, 8, "ended with code 3"),
        (3, 8, "The same command goes on from what is saved; data.num_workers=0 shows an error where it happens."),
    ],
)
def test_the_death_of_a_worker_is_told_with_what_to_do(exit_code, workers_now, words):
    dead = workers.DeadWorker(3, 4711, exit_code, "case_017", is_done=False, memory=2_100_000_000)
    text = str(workers.worker_death(dead, workers_now))
    assert text.startswith("loader worker 3 (pid 4711) ")
    assert words in text
