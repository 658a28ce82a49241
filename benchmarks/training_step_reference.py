"""nnU-Net's side of training_step.py: times its trainer's own training step, in its own environment.

    python training_step_reference.py CASE STEPS DEVICE THREADS OUTPUT.json

The targets of deep supervision are made before the clock starts.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from training_step_cases import CASES, Case, dataset_json, nnunet_plans

DIFFERENT_BATCHES = 2


def make_trainer(case: Case, root: Path, device: str) -> Any:
    """nnU-Net's default trainer for the case, initialised by itself."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(root / name)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans = nnunet_plans(case)
    (configuration,) = plans["configurations"]
    store = root / "preprocessed" / plans["dataset_name"] / "data"
    store.mkdir(parents=True)
    # The trainer looks at the names of the stored cases to learn their format; it reads none of them here.
    (store / "none.b2nd").touch()
    description = plans | {"continue_training": False}
    trainer = nnUNetTrainer(description, configuration, 0, dataset_json(case), torch.device(device))
    trainer.initialize()
    trainer.network.train()
    return trainer


def make_batches(trainer: Any, case: Case) -> list[dict[str, Any]]:
    """Batches as nnU-Net's loader hands them out."""
    transform = trainer.get_validation_transforms(trainer._get_deep_supervision_scales())
    made = []
    for images, labels in zip(*case.batches(DIFFERENT_BATCHES), strict=True):
        samples = [
            transform(image=torch.from_numpy(image), segmentation=torch.from_numpy(label)[None])
            for image, label in zip(images, labels, strict=True)
        ]
        targets = [torch.stack(level) for level in zip(*(sample["segmentation"] for sample in samples), strict=True)]
        made.append({"data": torch.stack([sample["image"] for sample in samples]), "target": targets})
    return made


def main() -> None:
    case, steps, device = CASES[sys.argv[1]], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(int(sys.argv[4]))
    with tempfile.TemporaryDirectory() as root:
        trainer = make_trainer(case, Path(root), device)
        batches = make_batches(trainer, case)
        seconds, cpu_seconds = [], []
        for number in range(steps):
            start, cpu_start = time.perf_counter(), time.process_time()
            trainer.train_step(batches[number % DIFFERENT_BATCHES])  # reads the loss, so it waits for the device
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    Path(sys.argv[5]).write_text(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "device_mib": peak}))


if __name__ == "__main__":
    main()
