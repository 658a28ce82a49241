"""Prediction: segplan beside nnU-Net on the same weights and images: time of each stage and peak memory.

A small network with random weights and no mirroring, so that resampling and export weigh as much as beside a GPU.
Cases: CTs of SarcomaCT (2 classes) and a phantom CT of 512×512 pixels with 3, 25 and 105 classes. nnU-Net runs its
stages one after the other in one process, which is the least memory that it can take.

Goals: end to end at most 0.4 of nnU-Net's time; resampling and export 20 times faster at 25 classes; peak memory at
most a quarter at 25 classes and a tenth at 105, where nnU-Net survives at all.

`--device cuda` puts the network there, by default a larger one, and adds how busy nvidia-smi says the device was while
the process lived. Goal: at most 0.5 of nnU-Net's seconds without those of loading. That has not run on a GPU yet.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from large_ct import write_large_ct
from measure import BenchmarkFailed, median_and_range, neutral_environment, print_machine, run_measured
from reference_environment import EXIT_NO_REFERENCE, Reference, add_reference_arguments, ensure_reference, run_benchmark
from reference_models import DATA, TRAINER

from segplan.interop.nnunet import import_model

HERE = Path(__file__).resolve().parent
INTENSITIES = {"max": 1500.0, "mean": 40.0, "median": 40.0, "min": -1000.0, "std": 120.0}
INTENSITIES |= {"percentile_00_5": -950.0, "percentile_99_5": 300.0}


def plans_for(classes: int, spacing: Sequence[float], patch: Sequence[int], features: int) -> tuple[Any, Any]:
    """nnU-Net's plans and dataset.json of a CT model: a network of three stages, `classes` with the background."""
    plans = copy.deepcopy(json.loads((DATA / "models" / "3d_fullres" / "plans.json").read_text()))
    plans |= {"dataset_name": "Dataset099_Benchmark", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    plans["foreground_intensity_properties_per_channel"] = {"0": INTENSITIES}
    own = plans["configurations"]["3d_fullres"]
    own |= {"patch_size": list(patch), "spacing": list(spacing), "normalization_schemes": ["CTNormalization"]}
    own["use_mask_for_norm"] = [False]
    own["architecture"]["arch_kwargs"] |= {
        "n_stages": 3,
        "features_per_stage": [features, 2 * features, 2 * features],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    plans["configurations"] = {"3d_fullres": own}
    labels = {"background": 0} | {f"organ_{number}": number for number in range(1, classes)}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    return plans, dataset


def make_models(reference: Reference, folder: Path, plans: Any, dataset: Any) -> tuple[Path, Path]:
    """The same random weights as a model of nnU-Net's and as one of segplan's."""
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    words = ["make", folder / "results", folder / "plans.json", folder / "dataset.json"]
    command = [reference.python, HERE / "reference_predict.py", *words]
    run_measured(command, folder / "make.log", neutral_environment(PYTHONPATH=str(HERE)))
    source = folder / "results" / f"{TRAINER}__nnUNetPlans__3d_fullres"
    import_model(source, folder / "segplan")
    return source, folder / "segplan"


def measure_segplan(model: Path, image: Path, folder: Path, precision: str, device: str) -> dict[str, Any]:
    """One prediction in a process of its own: stages, wall seconds, peak memory and the label map's file."""
    name = f"segplan-{precision}"
    words = [model, folder / f"{name}.json", folder / f"{name}.nii.gz", precision, "0.5", device, image]
    command = [sys.executable, HERE / "segplan_predict.py", *words]
    environment = neutral_environment(PYTHONPATH=str(HERE.parent))
    return _measured(command, folder, name, environment, device)


def measure_reference(reference: Reference, model: Path, image: Path, folder: Path, device: str) -> dict[str, Any]:
    """The same of nnU-Net."""
    words = ["predict", model, folder / "nnU-Net.json", folder / "nnU-Net", device, image]
    command = [reference.python, HERE / "reference_predict.py", *words]
    return _measured(command, folder, "nnU-Net", neutral_environment(), device)


def _measured(
    command: Sequence[Any], folder: Path, name: str, environment: dict[str, str], device: str
) -> dict[str, Any]:
    with _busy_share(device, folder / f"{name}.busy") as busy:
        cost = run_measured(command, folder / f"{name}.log", environment)
    about: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz")))
    seconds = sum(about["stages"].values()) - about["stages"]["load"] if device != "cpu" else cost.wall_s
    return about | {"seconds": seconds, "peak": cost.peak_mib, "labels": labels, "busy": busy}


@contextmanager
def _busy_share(device: str, log: Path) -> Iterator[list[float]]:
    """Yields a list that holds at the end what nvidia-smi sampled of the first GPU, in percent; none on the CPU."""
    samples: list[float] = []
    if device == "cpu":
        yield samples
        return
    query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    with log.open("w") as output, subprocess.Popen(query, stdout=output) as sampler:
        try:
            yield samples
        finally:
            sampler.terminate()
    samples += [float(line) for line in log.read_text().split() if line.isdigit()]


def _print_rows(title: str, results: dict[str, list[dict[str, Any]]]) -> None:
    """A line a program: medians over the rounds; labels are compared with nnU-Net's first."""
    reference = results.get("nnU-Net")
    for name, rounds in results.items():
        middle = _medians(rounds)
        stages = ", ".join(f"{stage} {value:.1f}" for stage, value in middle["stages"].items())
        time = median_and_range([found["seconds"] for found in rounds])
        busy = [value for found in rounds for value in found["busy"]]
        stages += f"; GPU {statistics.mean(busy):.0f} % busy" if busy else ""
        row = f"| {title} | {name} ({rounds[0]['precision']}) | {time} | {middle['peak']:.0f} | {stages} |"
        if reference is not None and rounds is not reference:
            theirs = _medians(reference)
            own = middle["stages"]["resample, decide"] + middle["stages"]["write"]
            same = float(np.mean(rounds[0]["labels"] == reference[0]["labels"]))
            row += f" {middle['seconds'] / theirs['seconds']:.2f} | {theirs['stages']['export'] / own:.1f} |"
            row += f" {middle['peak'] / theirs['peak']:.2f} | {100 * same:.4f} % |"
        else:
            row += " | | | |"
        print(row, flush=True)
        for note in rounds[0]["notes"]:
            print(f"  note: {note}")


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    stages = {
        stage: statistics.median(found["stages"].get(stage, 0.0) for found in rounds) for stage in rounds[0]["stages"]
    }
    return {key: statistics.median(found[key] for found in rounds) for key in ("seconds", "peak")} | {"stages": stages}


def body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    print_machine()
    columns = "case | program | s, median (range) | peak MiB | stages (s) | time ratio | export speed-up | memory ratio"
    print(f"| {columns} | same labels |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="segplan-inference-", dir=arguments.scratch) as name:
        scratch = Path(name)
        for title, image, classes, spacing in _cases(arguments, scratch):
            folder = scratch / title
            plans, dataset = plans_for(classes, spacing, [arguments.patch] * 3, arguments.features)
            source, model = make_models(reference, folder, plans, dataset)
            results: dict[str, list[dict[str, Any]]] = {}
            for _ in range(arguments.rounds):
                try:
                    theirs = measure_reference(reference, source, image, folder, arguments.device)
                    results.setdefault("nnU-Net", []).append(theirs)
                except BenchmarkFailed as error:
                    print(f"{title}: nnU-Net failed, segplan's figures stand alone: {str(error)[-200:]}")
                for precision in ("32", "auto"):
                    ours = measure_segplan(model, image, folder, precision, arguments.device)
                    results.setdefault(f"segplan, precision {precision}", []).append(ours)
            _print_rows(title, results)
    return 0


def _cases(arguments: argparse.Namespace, scratch: Path) -> list[tuple[str, Path, int, tuple[float, float, float]]]:
    """Title, file, classes with the background, and the network's spacing."""
    found = []
    data = os.environ.get("SEGPLAN_TEST_DATA")
    if data is not None:
        images = sorted(Path(data, "Dataset901_SarcomaCT", "imagesTr").glob("*_0000.nii.gz"))
        found += [(f"SarcomaCT-{number}", image, 2, (3.0, 1.2, 1.2)) for number, image in enumerate(images[:2])]
    for classes in arguments.classes:
        raw = write_large_ct(scratch / "Dataset098_LargeCT", arguments.slices, 3, size=arguments.size)
        found.append((f"phantom-{classes}", raw / "imagesTr" / "ct_0_0000.nii.gz", classes, (2.0, 1.5, 1.5)))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_reference_arguments(parser)
    parser.add_argument("--classes", type=int, nargs="*", default=[3, 25, 105], help="with the background")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=60, help="of the phantom")
    parser.add_argument("--size", type=int, default=512, help="of the phantom's slices, pixels a side")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--patch", type=int, help="voxels a side; default 64, on a GPU 128")
    parser.add_argument("--features", type=int, help="of the network's first stage; default 4, on a GPU 32")
    parser.add_argument("--full", action="store_true", help="400 slices")
    parser.add_argument("--scratch", type=Path, help="where temporary files go")
    arguments = parser.parse_args(argv)
    if arguments.full:
        arguments.slices = 400
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here, so nothing is measured", file=sys.stderr)
        return EXIT_NO_REFERENCE
    patch, features = (64, 4) if arguments.device == "cpu" else (128, 32)
    arguments.patch, arguments.features = arguments.patch or patch, arguments.features or features
    return run_benchmark(body, arguments)


if __name__ == "__main__":
    sys.exit(main())
