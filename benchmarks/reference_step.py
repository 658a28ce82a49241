"""nnU-Net's side of step_agreement.py: runs in nnU-Net's own environment and takes its trainer's training steps.

    python reference_step.py BATCHES.npz OUTPUT_FOLDER THREADS

Reads images (N, B, C, Z, Y, X) and label maps (N, B, Z, Y, X); writes `weights_0.npz` (the initial weights),
`weights_K.npz` after step K, and `trace.json` with the loss and the gradient norm of each step.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from step_plan import DATASET_JSON, PLANS


def make_trainer(root: Path) -> Any:
    """nnU-Net's default trainer, initialised by itself, for the plan in step_plan.py."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(root / name)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    configuration = PLANS["configurations"]["3d_fullres"]
    store = root / "preprocessed" / PLANS["dataset_name"] / configuration["data_identifier"]
    store.mkdir(parents=True)
    # The trainer looks at the names of the stored cases to learn their format; it reads none of them here.
    (store / "none.b2nd").touch()
    plans = json.loads(json.dumps(PLANS)) | {"continue_training": False}
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, DATASET_JSON, torch.device("cpu"))
    trainer.initialize()
    trainer.network.train()
    return trainer


def canonical_weights(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """The network's weights, each under one name."""
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in network.state_dict().items()
        if not name.startswith("decoder.encoder.") and ".all_modules." not in name
    }


def make_batch(trainer: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """A batch as nnU-Net's loader hands it out, with the targets that its own transforms make."""
    transform = trainer.get_validation_transforms(trainer._get_deep_supervision_scales())
    samples = [
        transform(image=torch.from_numpy(image), segmentation=torch.from_numpy(label)[None])
        for image, label in zip(images, labels, strict=True)
    ]
    targets = [torch.stack(level) for level in zip(*(sample["segmentation"] for sample in samples), strict=True)]
    return {"data": torch.stack([sample["image"] for sample in samples]), "target": targets}


def main() -> None:
    batches, output = np.load(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(int(sys.argv[3]))
    torch.manual_seed(0)
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def recording_clip(*arguments: Any, **keywords: Any) -> torch.Tensor:
        norm = clip(*arguments, **keywords)
        norms.append(float(norm))
        return norm

    losses: list[float] = []
    with tempfile.TemporaryDirectory() as root, mock.patch("torch.nn.utils.clip_grad_norm_", recording_clip):
        trainer = make_trainer(Path(root))
        np.savez(output / "weights_0.npz", **canonical_weights(trainer.network))
        for step, (images, labels) in enumerate(zip(batches["images"], batches["labels"], strict=True), start=1):
            losses.append(float(trainer.train_step(make_batch(trainer, images, labels))["loss"]))
            np.savez(output / f"weights_{step}.npz", **canonical_weights(trainer.network))
    (output / "trace.json").write_text(json.dumps({"loss": losses, "gradient_norm": norms}))


if __name__ == "__main__":
    main()
