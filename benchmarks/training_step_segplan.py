"""segplan's side of training_step.py: times the steps of the shipped module under Lightning, with every default.

python training_step_segplan.py CASE STEPS DEVICE THREADS OUTPUT.json [KEY=VALUE of the module or `precision` …]
"""

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader
from training_step_cases import CASES, Case, dataset_json

from segplan.dataset import Labels
from segplan.jobs.instantiate import instantiate
from segplan.networks import PlainUNet
from segplan.training import PatchDice, SegmentationModule, auto_precision

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DIFFERENT_BATCHES = 2


class StepTimer(pl.Callback):
    """Seconds of every step, from its batch to the updated weights."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self._start = self._cpu_start = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        self.cpu_seconds.append(time.process_time() - self._cpu_start)


def default(option: str) -> DictConfig:
    """A shipped configuration group's option, as it stands in the file."""
    return OmegaConf.create(OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{option}.yaml")))


def make_module(case: Case, options: dict[str, Any]) -> SegmentationModule:
    """The module with every default of segplan but `options`."""
    network = PlainUNet(
        case.channels, case.classes, features=case.features, strides=case.strides, kernel_sizes=case.kernels
    )
    labels = Labels.from_json(dataset_json(case))
    return SegmentationModule(
        network=network,
        loss=instantiate(default("loss/dice_ce"), batch_dice=len(case.patch) == 2),
        optimizer=functools.partial(instantiate, default("optimizer/sgd")),
        schedule=instantiate(default("schedule/poly")),
        patch_dice=PatchDice(labels.targets, labels.has_regions, labels.ignore),
        **{str(key): value for key, value in default("module/default").items()} | options,
    )


def main() -> None:
    case, steps, device = CASES[sys.argv[1]], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(int(sys.argv[4]))
    options: dict[str, Any] = OmegaConf.to_container(OmegaConf.from_dotlist(sys.argv[6:]))
    precision = options.pop("precision", auto_precision(device)[0])
    made = [
        {"image": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
        for images, labels in zip(*case.batches(DIFFERENT_BATCHES), strict=True)
    ]
    timer = StepTimer()
    trainer = pl.Trainer(
        accelerator=device,
        devices=1,
        precision=precision,
        max_epochs=1,
        limit_val_batches=0,
        gradient_clip_val=default("trainer/default").gradient_clip_val,
        benchmark=True,
        callbacks=[timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [made[number % DIFFERENT_BATCHES] for number in range(steps)]
    trainer.fit(make_module(case, options), DataLoader(batches, batch_size=None))
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    result = {"seconds": timer.seconds, "cpu_seconds": timer.cpu_seconds, "device_mib": peak, "precision": precision}
    Path(sys.argv[5]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
