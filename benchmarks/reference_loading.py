"""nnU-Net's side of loading.py: its own loader in one process, or single transforms of batchgeneratorsv2.

    python reference_loading.py prepare|load|transforms SCENARIO FOLDER SAMPLES SEED RESULT.json

The patch's larger box, the ranges of rotation and the transforms are what its trainer sets. The targets of deep
supervision are left out, because segplan makes them in the training step.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from loading_cases import CASES, FOREGROUND_SHARE, SCENARIOS, Scenario, cases, own_memory_mib

warnings.filterwarnings("ignore")

from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter  # noqa: E402
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform  # noqa: E402
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform  # noqa: E402
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform  # noqa: E402
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform  # noqa: E402
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform  # noqa: E402
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # noqa: E402
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader  # noqa: E402
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2  # noqa: E402
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: E402

NAMES = {
    GaussianNoiseTransform: "noise",
    GaussianBlurTransform: "blur",
    MultiplicativeBrightnessTransform: "brightness",
    ContrastTransform: "contrast",
    SimulateLowResolutionTransform: "low resolution",
    GammaTransform: "gamma",
    MirrorTransform: "mirror",
    SpatialTransform: "rotation and scaling",
}


def prepare(scenario: Scenario, folder: Path) -> None:
    folder.mkdir(parents=True)
    patch = scenario.patch if len(scenario.patch) == 3 else (1, *scenario.patch)
    for name, image, label_map in cases(scenario):
        seg = label_map[None].astype(np.int16)
        locations = DefaultPreprocessor._sample_foreground_locations(seg, list(range(1, scenario.classes)))
        blocks, chunks = nnUNetDatasetBlosc2.__init__.__globals__["comp_blosc2_params"](image.shape, patch)
        nnUNetDatasetBlosc2.save_case(image, seg, {"class_locations": locations}, str(folder / name), chunks, blocks)


def augmentation(scenario: Scenario) -> tuple[object, tuple[int, ...]]:
    """The training transforms, and the size of the box that is loaded."""
    trainer = SimpleNamespace(
        configuration_manager=SimpleNamespace(patch_size=scenario.patch), print_to_log_file=lambda *_: None
    )
    rotation, dummy_2d, initial, mirror_axes = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(
        trainer
    )
    transforms = nnUNetTrainer.get_training_transforms(
        scenario.patch,
        rotation,
        None,
        mirror_axes,
        dummy_2d,
        use_mask_for_norm=[False] * scenario.channels,
        foreground_labels=list(range(1, scenario.classes)),
    )
    return transforms, tuple(int(size) for size in initial)


def load(scenario: Scenario, folder: Path, samples: int) -> dict[str, float]:
    transforms, initial = augmentation(scenario)
    dataset = nnUNetDatasetBlosc2(str(folder), [f"case{number}" for number in range(CASES)])
    labels = SimpleNamespace(all_labels=list(range(scenario.classes)), has_ignore_label=False)
    loader = nnUNetDataLoader(
        dataset,
        scenario.batch,
        initial,
        scenario.patch,
        labels,
        oversample_foreground_percent=FOREGROUND_SHARE,
        transforms=transforms,
    )
    imports = own_memory_mib()
    batches = SingleThreadedAugmenter(loader, None)
    next(batches)
    wall, cpu, made = time.perf_counter(), time.process_time(), 0
    while made < samples:
        next(batches)
        made += scenario.batch
    return {
        "wall_s": (time.perf_counter() - wall) / made,
        "cpu_s": (time.process_time() - cpu) / made,
        "imports_mib": imports,
    }


def transforms_alone(scenario: Scenario, repeats: int) -> dict[str, float]:
    compose, initial = augmentation(scenario)
    image = torch.randn(scenario.channels, *scenario.patch)
    labels = torch.randint(0, scenario.classes, (1, *scenario.patch), dtype=torch.int16)
    seconds: dict[str, float] = {}
    with torch.no_grad():
        for outer in compose.transforms:
            transform = getattr(outer, "transform", outer)
            name = NAMES.get(type(transform))
            if name is None:
                continue
            source = image, labels
            if isinstance(transform, SpatialTransform):
                transform.p_rotation, transform.p_scaling = 0.56, 0.56  # 20 % of 36 %: given that it acts
                seg = torch.from_numpy(next(cases(scenario))[2][None].astype(np.int16))
                source = torch.randn(scenario.channels, *initial), seg[:, : initial[0], : initial[1], : initial[2]]
            total = 0.0
            for repeat in range(-2, repeats):
                data = {"image": source[0].clone(), "segmentation": source[1].clone()}
                params = _acting(transform, data)
                start = time.process_time()
                transform.apply(data, **params)
                total += time.process_time() - start if repeat >= 0 else 0
            seconds[name] = total / repeats  # of the two gammas the second, which does not invert, as for segplan
    return seconds


def _acting(transform: object, data: dict[str, torch.Tensor]) -> dict[str, object]:
    """Parameters with which the transform does something."""
    while True:
        params = transform.get_parameters(**data)
        channels = params.get("apply_to_channel")
        if channels is not None and len(channels) == 0:
            continue
        if isinstance(transform, MirrorTransform) and not len(params["axes"]):
            continue
        if isinstance(transform, SpatialTransform) and params["affine"] is None:
            continue
        return params


def main() -> None:
    task, name, folder, samples, seed, result = sys.argv[1:]
    torch.set_num_threads(1)
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))
    scenario = SCENARIOS[name]
    done: dict[str, float] = {}
    if task == "prepare":
        prepare(scenario, Path(folder))
    elif task == "load":
        done = load(scenario, Path(folder), int(samples))
    else:
        done = transforms_alone(scenario, int(samples))
    Path(result).write_text(json.dumps(done))


if __name__ == "__main__":
    main()
