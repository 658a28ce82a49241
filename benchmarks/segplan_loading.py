"""segplan's side of loading.py: makes samples as a loader process does, or applies single transforms.

python segplan_loading.py prepare|load|transforms SCENARIO FOLDER SAMPLES SEED RESULT.json
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from loading_cases import CASES, FOREGROUND_SHARE, SCENARIOS, Scenario, cases, own_memory_mib
from omegaconf import OmegaConf

from segplan.augmentation import Pipeline, build_pipeline
from segplan.dataset import Labels
from segplan.patches import Oversampling, PatchDataset
from segplan.patches.slots import BatchSlots, SlotLayout
from segplan.patches.worker import keep_freed_memory
from segplan.preprocessing import CaseProperties, CaseStore, PreprocessedCase, foreground_locations

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "augmentation" / "default.yaml"
NAMES = {  # of the transforms, on both sides
    "noise": "noise",
    "blur": "blur",
    "brightness": "brightness",
    "contrast": "contrast",
    "low_resolution": "low resolution",
    "gamma": "gamma",
    "mirror": "mirror",
}


def prepare(scenario: Scenario, folder: Path) -> None:
    names = {"background": 0, **{f"class {value}": value for value in range(1, scenario.classes)}}
    labels = Labels.from_json({"labels": names})
    box = tuple((0, size) for size in scenario.shape)
    properties = CaseProperties((1.0,) * 3, scenario.shape, box, scenario.shape, scenario.shape, (0, 1, 2), {})
    for name, image, label_map in cases(scenario):
        on_grid = label_map.astype(np.int16)
        case = PreprocessedCase(image, on_grid, properties)
        CaseStore(folder).write(name, case, foreground_locations(on_grid, labels), None, "")


def pipeline_of(scenario: Scenario) -> Pipeline:
    node = OmegaConf.to_container(OmegaConf.load(CONFIG))
    return build_pipeline(node, scenario.patch, (False,) * scenario.channels)


def load(scenario: Scenario, folder: Path, samples: int, seed: int) -> dict[str, float]:
    dataset = PatchDataset(
        CaseStore(folder),
        [f"case{number}" for number in range(CASES)],
        pipeline=pipeline_of(scenario),
        oversampling=Oversampling(scenario.batch, FOREGROUND_SHARE),
        seed=seed,
    )
    dataset.warm_up()
    imports = own_memory_mib()
    slots = BatchSlots(SlotLayout(dataset.array_layout, scenario.batch), 1)
    batch = {key: torch.from_numpy(view) for key, view in slots.views(0).items()}

    def make(first: int, count: int) -> None:
        for index in range(first, first + count):
            place = index % scenario.batch
            dataset.make(index, {key: tensor[place] for key, tensor in batch.items()})

    make(0, 2 * scenario.batch)
    wall, cpu = time.perf_counter(), time.process_time()
    make(2 * scenario.batch, samples)
    return {
        "wall_s": (time.perf_counter() - wall) / samples,
        "cpu_s": (time.process_time() - cpu) / samples,
        "imports_mib": imports,
    }


def transforms(scenario: Scenario, repeats: int) -> dict[str, float]:
    pipeline = pipeline_of(scenario)
    rng = np.random.default_rng(0)
    image = torch.randn(scenario.channels, *scenario.patch)
    labels = torch.randint(0, scenario.classes, (1, *scenario.patch), dtype=torch.int16)
    seconds = {}
    for key, transform in pipeline.transforms:
        if key not in NAMES:
            continue
        total = 0.0
        for repeat in range(-2, repeats):
            params = None
            while params is None:
                params = transform.sample(rng, pipeline.context)
            patch = image.clone(), labels.clone()
            start = time.process_time()
            transform.apply(*patch, params)
            total += time.process_time() - start if repeat >= 0 else 0
        seconds[NAMES[key]] = total / repeats
    box = rng.standard_normal((scenario.channels, *pipeline.initial_patch_size), dtype=np.float32)
    box_labels = next(cases(scenario))[2][None, : box.shape[1], : box.shape[2], : box.shape[3]].astype(np.int8)
    total = 0.0
    for repeat in range(-1, repeats):
        params = None
        while params is None:
            params = pipeline.spatial.sample(rng, pipeline.context)
        start = time.process_time()
        Pipeline(pipeline.context, pipeline.spatial).apply(box, box_labels, {"spatial": params})
        total += time.process_time() - start if repeat >= 0 else 0
    seconds["rotation and scaling"] = total / repeats
    return seconds


def main() -> None:
    task, name, folder, samples, seed, result = sys.argv[1:]
    torch.set_num_threads(1)
    keep_freed_memory()
    scenario = SCENARIOS[name]
    done: dict[str, float] = {}
    if task == "prepare":
        prepare(scenario, Path(folder))
    elif task == "load":
        done = load(scenario, Path(folder), int(samples), int(seed))
    else:
        done = transforms(scenario, int(samples))
    Path(result).write_text(json.dumps(done))


if __name__ == "__main__":
    main()
