"""segplan's side of step_agreement.py: the shipped module, loss, optimiser and clipping under Lightning, in fp32.

    python segplan_step.py BATCHES.npz INITIAL_WEIGHTS.npz OUTPUT_FOLDER

Writes what reference_step.py writes.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from step_plan import (
    CHANNELS,
    CLASSES,
    CONVS_PER_STAGE,
    CONVS_PER_STAGE_DECODER,
    DATASET_JSON,
    FEATURES,
    KERNEL_SIZES,
    STRIDES,
    THREADS,
)
from torch.utils.data import DataLoader

from segplan.dataset import Labels
from segplan.jobs.instantiate import instantiate
from segplan.networks import PlainUNet
from segplan.training import PatchDice, SegmentationModule

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class StepRecorder(pl.Callback):
    """Writes the weights after each step and keeps the loss and the gradient's norm before clipping."""

    def __init__(self, folder: Path) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self._folder = folder

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        np.savez(self._folder / f"weights_{batch_idx + 1}.npz", **weights_of(pl_module.network))


def weights_of(network: Any) -> dict[str, np.ndarray]:
    """The network's weights by name."""
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def default(option: str) -> DictConfig:
    """A shipped configuration group's option, as it stands in the file."""
    node = OmegaConf.load(CONFIGS / f"{option}.yaml")
    assert isinstance(node, DictConfig)
    return node


def make_module(initial: Path) -> SegmentationModule:
    """The module with nnU-Net's initial weights and every default of segplan."""
    network = PlainUNet(
        CHANNELS,
        CLASSES,
        features=FEATURES,
        strides=STRIDES,
        kernel_sizes=KERNEL_SIZES,
        convs_per_stage=CONVS_PER_STAGE[0],
        convs_per_stage_decoder=CONVS_PER_STAGE_DECODER[0],
    )
    network.load_state_dict({name: torch.from_numpy(array) for name, array in np.load(initial).items()}, strict=True)
    labels = Labels.from_json(DATASET_JSON)
    return SegmentationModule(
        network=network,
        loss=instantiate(default("loss/dice_ce")),
        optimizer=functools.partial(instantiate, default("optimizer/sgd")),
        schedule=instantiate(default("schedule/poly")),
        patch_dice=PatchDice(labels.targets, labels.has_regions, labels.ignore),
        **{str(key): value for key, value in default("module/default").items()},
    )


def main() -> None:
    stored, initial, output = np.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(THREADS)
    batches = [
        {"image": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
        for images, labels in zip(stored["images"], stored["labels"], strict=True)
    ]
    recorder = StepRecorder(output)
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="32-true",
        max_epochs=1,
        limit_val_batches=0,
        gradient_clip_val=default("trainer/default").gradient_clip_val,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(make_module(initial), DataLoader(batches, batch_size=None))
    (output / "trace.json").write_text(json.dumps({"loss": recorder.losses, "gradient_norm": recorder.norms}))


if __name__ == "__main__":
    main()
