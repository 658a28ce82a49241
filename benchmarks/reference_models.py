"""Trained models as nnU-Net itself writes them, and its predictions with them: runs in nnU-Net's own environment.

    python reference_models.py make OUTPUT
    python reference_models.py predict RESULTS OUTPUT      # with models that were exported to nnU-Net's form

From the images and plans in tests/data/inference `make` makes a residual-encoder model, a cascade, a model of regions,
one with an ignore label and CT normalisation, and one with plans as nnU-Net before 2.4 wrote them: networks of 4 to 6
features with random weights. OUTPUT/models/NAME is a results folder; OUTPUT/expected/NAME.npz holds

    t0, t1        label maps (z, y, x)
    sure_t0, …    where the two best probabilities differ by more than 1e-3 (regions: differ from 0.5); bits
    patch_logits  the network's answer to `patch()`, every second, fourth and fourth voxel
"""

import copy
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

DATA = Path(__file__).parents[1] / "tests" / "data" / "inference"
TRAINER = "nnUNetTrainer"
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": 3}


def variants() -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """Configuration, plans and dataset.json of each model."""
    plans = json.loads((DATA / "models" / "3d_fullres" / "plans.json").read_text())
    dataset = json.loads((DATA / "models" / "3d_fullres" / "dataset.json").read_text())
    ct = copy.deepcopy(plans)
    ct["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization", "RescaleTo01Normalization"]
    return {
        "resenc": ("3d_resenc", plans, dataset),
        "cascade": ("3d_cascade_fullres", plans, dataset),
        "regions": ("3d_fullres", plans, dataset | {"labels": REGIONS, "regions_class_order": [1, 2, 3]}),
        "ignore": ("2d", ct, dataset | {"labels": dataset["labels"] | {"ignore": 4}}),
        "legacy": ("3d_fullres", legacy(plans), dataset),
    }


def legacy(plans: dict[str, Any]) -> dict[str, Any]:
    """The same plans in the words of nnU-Net before 2.4."""
    plans = copy.deepcopy(plans)
    own = plans["configurations"]["3d_fullres"]
    arguments = own.pop("architecture")["arch_kwargs"]
    own |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": arguments["strides"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
        "num_pool_per_axis": [2, 3, 3],
    }
    plans["configurations"] = {"3d_fullres": own}
    return plans


def patch(channels: int, size: list[int]) -> torch.Tensor:
    """Seeded noise (1, C, *size)."""
    return torch.from_numpy(np.random.default_rng(5).normal(size=(1, channels, *size)).astype(np.float32))


def thinned(logits: np.ndarray) -> np.ndarray:
    """Every second, fourth and fourth voxel (in 2D every fourth) of logits (K, *spatial)."""
    return logits[(slice(None), *[slice(None, None, step) for step in (2, 4, 4)][-(logits.ndim - 1) :])]


def make_model(results: Path, configuration: str, plans: dict[str, Any], dataset: dict[str, Any]) -> Path:
    """Write a model with random weights the way nnU-Net's trainer writes one."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(copy.deepcopy(plans))
    own = manager.get_configuration(configuration)
    torch.manual_seed(zlib.crc32(f"{results.name} {configuration}".encode()))
    network = nnUNetTrainer.build_network_architecture(
        manager,
        own,
        determine_num_input_channels(manager, own, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads,
        False,
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:  # as after some training, not as after initialisation
                parameter.copy_(torch.rand_like(parameter) + (0.5 if name.endswith("weight") else -0.5))
    folder = results / f"{TRAINER}__nnUNetPlans__{configuration}"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.1)]},
        "_best_ema": np.float32(0.5),
        "current_epoch": 1,
        "init_args": {"plans": plans, "configuration": configuration, "fold": 0, "dataset_json": dataset},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": tuple(range(len(own.patch_size))),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def predict(model: Path, folds: tuple[int | str, ...], output: Path, previous: Path | None) -> dict[str, np.ndarray]:
    """nnU-Net's label maps of the test images, and where it is sure."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from SimpleITK import GetArrayFromImage, ReadImage

    output.mkdir(parents=True)
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds, "checkpoint_final.pth")
    predictor.predict_from_files_sequential(
        str(DATA / "images"), str(output), True, True, None if previous is None else str(previous)
    )
    found: dict[str, np.ndarray] = {}
    regions = predictor.label_manager.has_regions
    for case in ("t0", "t1"):
        found[case] = GetArrayFromImage(ReadImage(str(output / f"{case}.nii.gz"))).astype(np.uint8)
        probabilities = np.load(output / f"{case}.npz")["probabilities"].astype(np.float32)
        best = np.sort(probabilities, axis=0)
        sure = (np.abs(probabilities - 0.5) > 1e-3).all(0) if regions else best[-1] - best[-2] > 1e-3
        found[f"sure_{case}"] = sure
    configuration = predictor.configuration_manager
    channels = next(iter(predictor.network.parameters())).shape[1]
    with torch.no_grad():
        logits = predictor.network.eval()(patch(channels, configuration.patch_size))[0].numpy()
    found["patch_logits"] = logits[
        (slice(None), *[slice(None, None, step) for step in (2, 4, 4)][-(logits.ndim - 1) :])
    ]
    return found


def make(root: Path) -> None:
    """Make all models and predict with them."""
    for name, (configuration, plans, dataset) in variants().items():
        results = root / "models" / name
        make_model(results, configuration, plans, dataset)
        if name == "cascade":
            make_model(results, "3d_lowres", plans, dataset)
    predict_all(root / "models", root / "expected")


def predict_all(models: Path, output: Path) -> None:
    """Predict with each results folder NAME in `models`; writes OUTPUT/NAME.npz."""
    output.mkdir(parents=True)
    for name, (configuration, _, _) in variants().items():
        folders = {path.name.rpartition("__")[2]: path for path in (models / name).rglob(f"{TRAINER}__*")}
        with tempfile.TemporaryDirectory() as scratch:
            previous = None
            if name == "cascade":
                previous = Path(scratch, "previous")
                predict(folders["3d_lowres"], (0,), previous, None)
            found = predict(folders[configuration], (0,), Path(scratch, "own"), previous)
        packed = {key: np.packbits(value) if value.dtype == bool else value for key, value in found.items()}
        np.savez_compressed(output / f"{name}.npz", **packed)


def main() -> None:
    job, *folders = sys.argv[1:]
    with tempfile.TemporaryDirectory() as unused:
        os.environ |= {f"nnUNet_{name}": unused for name in ("raw", "preprocessed", "results")}
        os.environ |= {"nnUNet_compile": "f"}
        torch.set_num_threads(1)
        if job == "make":
            make(Path(folders[0]))
        else:
            predict_all(Path(folders[0]), Path(folders[1]))


if __name__ == "__main__":
    main()
