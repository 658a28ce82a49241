"""A workspace with a tiny preprocessed dataset, and the configuration of a run on it that takes seconds."""

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from segplan.dataset import Labels, Split, write_splits
from segplan.imaging import Geometry, Image
from segplan.jobs.plan_node import labels_of, preprocessing_of, store_folder
from segplan.jobs.prepare import fold_folder
from segplan.preprocessing import CaseStore, foreground_locations, preprocess

CONFIGS = Path(__file__).parents[2] / "configs"
CASES = ("a", "b", "c", "d", "e", "f")
LABELS = {"background": 0, "bright": 1, "dark": 2}
REGIONS = {"background": 0, "both": [1, 2], "dark": 2}
GROUPS = {
    "loss": "dice_ce",
    "optimizer": "sgd",
    "schedule": "poly",
    "module": "default",
    "trainer": "default",
    "callbacks": "default",
    "logger": "csv",
    "checkpoint": "default",
    "validation": "default",
    "finetune": "none",
}


def plan_node(flat: bool, regions: bool) -> dict[str, Any]:
    return {
        "dataset": "Dataset999_Tiny",
        "labels": REGIONS if regions else LABELS,
        "regions_class_order": [1, 2] if regions else None,
        "label_ending": ".nii.gz",
        "input_channels": 1,
        "num_classes": 2 if regions else 3,
        "spacing": [None if flat else 1.0, 1.0, 1.0],
        "transpose": [0, 1, 2],
        "normalization": ["zscore"],
        "use_mask_for_norm": [False],
        "use_mask": [False],
        "intensities": [None],
        "runnable": True,
    }


def write_store(folder: Path, labels: Labels, plan: dict[str, Any]) -> None:
    """Noisy volumes with a bright and a dark box each."""
    rng = np.random.default_rng(0)
    store = CaseStore(folder)
    for case in CASES:
        label_map = np.zeros((12, 20, 24), dtype=np.uint8)
        for value in (1, 2):
            z, y, x = rng.integers((0, 0, 0), (5, 10, 14))
            label_map[z : z + 7, y : y + 9, x : x + 9] = value
        image = rng.normal(0, 0.3, (1, *label_map.shape)) + 2 * (label_map == 1) - 2 * (label_map == 2)
        geometry = Geometry(3, (1.0, 1.0, 1.0), (5.0, 6.0, 7.0), tuple(np.eye(3).ravel().tolist()))
        read = Image(image.astype(np.float32), (1.0, 1.0, 1.0), geometry)
        done = preprocess(read, label_map, preprocessing_of(plan))
        store.write(case, done, foreground_locations(done.labels, labels), label_map, "hash")


def make_run(workspace: Path, *overrides: str, flat: bool = False, regions: bool = False) -> DictConfig:
    """Write the workspace unless it is there, and return a run's configuration with dotted `overrides` applied."""
    plan = plan_node(flat, regions)
    folder = store_folder(workspace, plan)
    if not folder.exists():
        write_store(folder, labels_of(plan), plan)
        splits = [Split(CASES[:4], CASES[4:]), Split(CASES[2:], CASES[:2])]
        write_splits(workspace / "plan" / "Dataset999_Tiny" / "splits_final.json", splits)
    axes = 2 if flat else 3
    groups = GROUPS | {"loss": "dice_bce" if regions else "dice_ce"}
    config = OmegaConf.create(
        {
            "workspace": str(workspace),
            "dataset": "Dataset999_Tiny",
            "configuration": "2d" if flat else "3d_fullres",
            "plan_name": None,
            "run": "default",
            "fold": 0,
            "seed": 0,
            "force": False,
            "debug": False,
            "mode": "train",
            "plan": plan,
            "data": {"patch_size": [8, 16, 16][-axes:], "batch_size": 2, "num_workers": 0},
            "network": {
                "_target_": "segplan.networks.PlainUNet",
                "input_channels": 1,
                "num_classes": plan["num_classes"],
                "features": [4, 8, 8],
                "strides": [[1] * axes, [2] * axes, [2] * axes],
                "kernel_sizes": [[3] * axes] * 3,
            },
            "augmentation": {
                "device": "cpu",
                "dummy_2d": False,
                "spatial": {"_target_": "segplan.augmentation.Spatial"},
                "noise": {"_target_": "segplan.augmentation.GaussianNoise"},
                "mirror": {"_target_": "segplan.augmentation.Mirror"},
            },
            "inference": {"step_size": 0.5, "mirror": True, "tile_batch_size": "auto", "accumulator": "float32"},
            **{group: OmegaConf.load(CONFIGS / group / f"{option}.yaml") for group, option in groups.items()},
        }
    )
    small = ["trainer.max_epochs=3", "trainer.limit_train_batches=4", "trainer.accelerator=cpu"]
    config = OmegaConf.merge(config, OmegaConf.from_dotlist([*small, "inference.mirror=false", *overrides]))
    assert isinstance(config, DictConfig)
    folder = fold_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml")
    return config
