"""On a CUDA device: time of the batched transforms, and how long training steps wait for data. Has not run on one yet.

1. Milliseconds a batch of the transforms on the device, 128³, batch 2, 1 and 4 channels, default augmentation.
2. Share of time that a training step of the plain U-Net (6 stages, 32 to 320 features, bf16) waits for its batch, with
   1, 2, 4 and 16 loader processes, augmented by the workers and on the device. Goal: under 5 % with 2.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from loading_cases import CASES, SCENARIOS, Scenario
from measure import print_machine
from segplan_loading import pipeline_of, prepare

from segplan.networks import PlainUNet
from segplan.patches import Oversampling, PatchDataset, PatchLoader
from segplan.preprocessing import CaseStore

EXIT_NO_DEVICE = 3
SCENARIO_NAMES = ("128³, 3 classes, 1 channel", "128³, 3 classes, 4 channels")
GOAL_SHARE, GOAL_PROCESSES = 0.05, 2
FEATURES = (32, 64, 128, 256, 320, 320)


def dataset_of(scenario: Scenario, folder: Path, on_device: bool) -> PatchDataset:
    return PatchDataset(
        CaseStore(folder),
        [f"case{number}" for number in range(CASES)],
        pipeline=pipeline_of(scenario),
        oversampling=Oversampling(scenario.batch),
        seed=0,
        on_device=on_device,
    )


def transforms_ms(dataset: PatchDataset, batch: int, device: torch.device, batches: int) -> list[float]:
    """Milliseconds of `apply_batch` for each of some batches, that are on the device already."""
    seconds = []
    for number in range(batches + 3):
        samples = [dataset[number * batch + place] for place in range(batch)]
        voxels, labels = (torch.stack([sample[key] for sample in samples]).to(device) for key in ("image", "labels"))
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        dataset.pipeline.apply_batch(voxels, labels, [sample["source"] for sample in samples])
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return [1e3 * value for value in seconds[3:]]


def waiting_share(dataset: PatchDataset, scenario: Scenario, device: torch.device, processes: int, steps: int) -> float:
    """Share of the time of `steps` training steps in which the program waits for a batch."""
    network = PlainUNet(
        input_channels=scenario.channels,
        num_classes=scenario.classes,
        features=FEATURES,
        strides=[[1] * 3, *[[2] * 3] * (len(FEATURES) - 1)],
        kernel_sizes=[[3] * 3] * len(FEATURES),
    ).to(device)
    network.deep_supervision = False
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)
    loader = PatchLoader(
        dataset,
        batch_size=scenario.batch,
        share=range(scenario.batch),
        batches_per_epoch=steps + 10,
        next_batch=lambda: 0,
        num_workers=processes,
        pin_memory=True,
    )
    waited = total = 0.0
    ended = time.perf_counter()
    for number, batch in enumerate(loader):
        arrived = time.perf_counter()
        images, labels = (batch[key].to(device, non_blocking=True) for key in ("image", "labels"))
        if "source" in batch:
            images, labels = dataset.pipeline.apply_batch(images, labels, batch["source"])
            labels = labels[:, 0]
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(images), labels.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize(device)  # the step's own time, so that what is left is waiting
        now = time.perf_counter()
        if number >= 10:  # the first ones warm up kernels and workers
            waited += arrived - ended
            total += now - ended
        ended = now
    loader.close()
    return waited / total


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Loading on a CUDA device: batched transforms, and waiting for data.")
    parser.add_argument("--batches", type=int, default=30, help="batches of transforms that are timed (default 30)")
    parser.add_argument("--steps", type=int, default=60, help="training steps that are timed (default 60)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 16], help="numbers of loader processes")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("there is no CUDA device here, so nothing is measured", file=sys.stderr)
        return EXIT_NO_DEVICE
    device = torch.device("cuda")
    print_machine()
    print(f"device: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory(prefix="segplan-loading-") as name:
        for scenario in (SCENARIOS[one] for one in SCENARIO_NAMES):
            folder = Path(name) / scenario.folder
            prepare(scenario, folder)
            _measure(scenario, folder, device, arguments)
    return 0


def _measure(scenario: Scenario, folder: Path, device: torch.device, arguments: argparse.Namespace) -> None:
    on_device, in_worker = dataset_of(scenario, folder, True), dataset_of(scenario, folder, False)
    times = transforms_ms(on_device, scenario.batch, device, arguments.batches)
    print(f"\n{scenario.name}, batch {scenario.batch}: transforms on the device, ms a batch: ", end="")
    print(f"median {statistics.median(times):.1f}, mean {statistics.mean(times):.1f}, most {max(times):.1f}")
    print("\n| loader processes | waiting, augmented by workers | waiting, augmented on the device | goal |")
    print("|---|---|---|---|")
    for processes in arguments.processes:
        shares = [waiting_share(one, scenario, device, processes, arguments.steps) for one in (in_worker, on_device)]
        met = "met" if min(shares) < GOAL_SHARE else "NOT met"
        goal = f"under {GOAL_SHARE:.0%}: {met}" if processes == GOAL_PROCESSES else ""
        print(f"| {processes} | {shares[0]:.1%} | {shares[1]:.1%} | {goal} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
