"""nnU-Net's side of the training benchmarks: runs in nnU-Net's own environment and trains with its default trainer.

    python reference_train.py '{"dataset": "Dataset004_Hippocampus", "epochs": 3, ...}' RESULT.json

Everything but the budget (epochs, iterations, batch size) is nnU-Net's default; it knows no seed. Writes the seconds
of each epoch as nnU-Net logs them, and the summary of its final validation where that is asked for.
"""

import json
import sys
from pathlib import Path

import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main() -> None:
    budget = json.loads(sys.argv[1])
    store = Path(nnUNet_preprocessed) / budget["dataset"]
    plans = json.loads((store / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    plans["configurations"][budget["configuration"]]["batch_size"] = budget["batch_size"]
    dataset_json = json.loads((store / "dataset.json").read_text())

    torch.set_num_threads(budget["threads"])
    trainer = nnUNetTrainer(plans, budget["configuration"], 0, dataset_json, torch.device("cpu"))
    trainer.num_epochs = budget["epochs"]
    trainer.num_iterations_per_epoch = budget["iterations"]
    trainer.num_val_iterations_per_epoch = budget["validation_batches"]
    trainer.run_training()

    starts = trainer.logger.get_value("epoch_start_timestamps", None)
    ends = trainer.logger.get_value("epoch_end_timestamps", None)
    result = {"epoch_seconds": [end - start for start, end in zip(starts, ends, strict=True)]}
    if budget["validate"]:
        trainer.perform_actual_validation()
        result["summary"] = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
