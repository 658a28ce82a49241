from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule, Trainer
from small_store import LABELS, write_store

from segplan.dataset import Split
from segplan.errors import ConfigError
from segplan.patches import PatchDataModule
from segplan.patches.augmentation_device import Sides, choose, measure

DEFAULT = OmegaConf.load(Path(__file__).parents[2] / "configs" / "augmentation" / "default.yaml")
SPLIT = Split(("case0", "case1"), ("case2",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, [(20, 22, 18), (12, 14, 16), (18, 18, 18)])
    return folder


def module(folder, device, num_workers=0):
    return PatchDataModule(
        folder,
        SPLIT,
        LABELS,
        patch_size=(8, 8, 8),
        batch_size=3,
        augmentation=OmegaConf.to_container(DEFAULT) | {"device": device},
        use_mask_for_norm=(False, True),
        batches_per_epoch=4,
        val_batches=2,
        num_workers=num_workers,
    )


def train_batches(data):
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    data.teardown("fit")
    return batches


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_augmented_where_the_network_computes_are_those_of_the_workers(folder, num_workers):
    by_workers = train_batches(module(folder, "cpu"))
    by_device = train_batches(module(folder, "accelerator", num_workers))
    assert len(by_device) == len(by_workers) == 4
    for one, other in zip(by_workers, by_device, strict=True):
        assert other.keys() == {"image", "labels", "case"}
        assert other["case"] == one["case"]
        torch.testing.assert_close(other["image"], one["image"], atol=2e-4, rtol=2e-4)
        assert (other["labels"] != one["labels"]).float().mean() < 2e-3  # ties of the vote alone
        assert other["labels"].dtype == one["labels"].dtype


def test_validation_batches_are_left_to_the_workers(folder):
    data = module(folder, "accelerator")
    batch = next(iter(data.val_dataloader()))
    assert data.on_after_batch_transfer(batch, 0) is batch


def test_cuda_is_refused_where_training_runs_on_the_cpu(folder):
    with pytest.raises(ConfigError, match="training runs on the cpu"):
        module(folder, "cuda").setup("fit")


def trainer_after_first_epoch(device_type, waiting_share):
    return SimpleNamespace(
        current_epoch=1,
        num_devices=1,
        callback_metrics={"waiting_share": torch.tensor(waiting_share), "samples_per_s": torch.tensor(20.0)},
        strategy=SimpleNamespace(root_device=SimpleNamespace(type=device_type), broadcast=lambda value: value),
    )


def test_auto_stays_with_the_workers_where_there_is_only_a_cpu(folder):
    data = module(folder, "auto")
    data.trainer = trainer_after_first_epoch("cpu", 0.5)
    data._choose_place(data.trainer)
    assert data.augmentation_place == "cpu"
    assert data.state_dict() == {}


def test_auto_decides_after_the_first_epoch_and_a_resumed_run_keeps_the_choice(folder, monkeypatch):
    monkeypatch.setattr("segplan.patches.datamodule.measure", lambda *_: Sides(0.2, 0.02, 0.001, 0.02))
    data = module(folder, "auto", num_workers=2)
    data.trainer = trainer_after_first_epoch("cuda", 0.4)
    data._choose_place(data.trainer)
    assert data.augmentation_place == "accelerator"
    assert data.train_dataset().on_device
    resumed = module(folder, "auto")
    assert resumed.augmentation_place == "cpu"
    resumed.load_state_dict(data.state_dict())
    assert resumed.augmentation_place == "accelerator"


def test_a_run_resumed_at_an_epochs_start_decides_after_the_epoch_that_it_can_measure(folder, monkeypatch):
    monkeypatch.setattr("segplan.patches.datamodule.measure", lambda *_: Sides(0.2, 0.02, 0.001, 0.02))
    data = module(folder, "auto", num_workers=2)
    data.trainer = trainer_after_first_epoch("cuda", 0.4)
    measured = data.trainer.callback_metrics
    data.trainer.callback_metrics = {}
    data._choose_place(data.trainer)
    assert data.state_dict() == {}
    data.trainer.callback_metrics = measured
    data._choose_place(data.trainer)
    assert data.augmentation_place == "accelerator"


def test_workers_keep_the_work_while_training_does_not_wait_for_them():
    slow_workers = Sides(worker=0.4, reading=0.01, device=0.002, step=0.05)
    assert choose(slow_workers, 4, waiting_share=0.02)[0] == "cpu"
    assert choose(slow_workers, 4, waiting_share=0.5)[0] == "accelerator"


def test_device_is_chosen_only_if_it_makes_samples_faster():
    slow_device = Sides(worker=0.4, reading=0.01, device=0.2, step=0.05)
    assert choose(slow_device, 4, waiting_share=0.5)[0] == "cpu"
    place, reason = choose(slow_device, 1, waiting_share=0.5)
    assert place == "accelerator"
    assert "400.0 ms with the workers, 250.0 ms with the device" in reason


def test_measuring_times_reading_apart_from_augmenting(folder):
    data = module(folder, "auto")
    sides = measure(data._train_dataset(False), data._train_dataset(True), torch.device("cpu"), step=0.5)
    assert min(sides.worker, sides.reading, sides.device) > 0
    assert sides.step == 0.5


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch["image"].clone())
        return self.weight.sum() * batch["image"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(folder, device, **trainer_settings):
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **trainer_settings,
    )
    data = module(folder, device)
    trainer.fit(recorder, datamodule=data)
    return recorder.batches, data


def test_training_sees_the_same_patches_wherever_they_are_augmented(folder):
    by_workers, _ = fitted(folder, "cpu")
    by_device, _ = fitted(folder, "accelerator")
    by_choice, data = fitted(folder, "auto")
    assert len(by_device) == len(by_workers) == 8
    for one, other, chosen in zip(by_workers, by_device, by_choice, strict=True):
        torch.testing.assert_close(other, one, atol=2e-4, rtol=2e-4)
        assert torch.equal(chosen, one)  # on a CPU there is nothing to choose
    assert data.augmentation_place == "cpu"


def test_lightnings_checkpoint_keeps_the_choice(folder, tmp_path):
    data = module(folder, "auto")
    data._chosen_place = "accelerator"
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Recorder(), datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = module(folder, "auto")
    Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_model_summary=False,
    ).fit(Recorder(), datamodule=resumed, ckpt_path=tmp_path / "last.ckpt")
    assert resumed.augmentation_place == "accelerator"
