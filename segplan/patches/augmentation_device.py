"""Where training patches are augmented: by the loader's workers, or in batches on the accelerator."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from segplan.errors import ConfigError
from segplan.patches.dataset import PatchDataset

Place = Literal["cpu", "accelerator"]
_SAMPLES = 8
_TOLERATED_WAITING = 0.05


@dataclass(frozen=True)
class Sides:
    """Seconds a sample takes on either side.

    Args:
        worker: read and augmented by one worker.
        reading: only read by one worker.
        device: augmented on the accelerator.
        step: of training, which shares the accelerator.
    """

    worker: float
    reading: float
    device: float
    step: float


def check_device(asked: str, device_type: str) -> None:
    """Refuse to augment on a kind of device that training does not use.

    Raises:
        ConfigError: it does not.
    """
    if asked == "cuda" and device_type != "cuda":
        raise ConfigError(
            f"training runs on the {device_type} here",
            "augmentation.device=cuda",
            "Use augmentation.device=cpu, or auto.",
        )


def choose(sides: Sides, workers: int, waiting_share: float) -> tuple[Place, str]:
    """Choose where to augment from what was measured; returns the place and its reason.

    While training does not wait for the workers, they may as well do it: the accelerator has better things to do.
    """
    if waiting_share <= _TOLERATED_WAITING:
        return "cpu", f"training waited for data {waiting_share:.0%} of the first epoch"
    processes = max(workers, 1)
    by_workers = max(sides.worker / processes, sides.step)
    by_device = max(sides.reading / processes, sides.step + sides.device)
    place: Place = "accelerator" if by_device < by_workers else "cpu"
    return place, f"a sample takes {1e3 * by_workers:.1f} ms with the workers, {1e3 * by_device:.1f} ms with the device"


def measure(in_worker: PatchDataset, on_device: PatchDataset, device: torch.device, step: float) -> Sides:
    """Time a few samples on either side, in this process; `step` are the seconds of training a sample."""
    indices = range(_SAMPLES)
    for dataset in (in_worker, on_device):
        dataset[0]  # compiles and reads what is needed once
    worker = _seconds(in_worker, indices)
    reading = _seconds(on_device, indices)
    batch = [on_device[index] for index in indices]
    voxels, labels = (torch.stack([sample[key] for sample in batch]).to(device) for key in ("image", "labels"))
    sources = [sample["source"] for sample in batch]
    for _ in range(2):  # the second run counts
        _wait_for(device)
        started = time.perf_counter()
        on_device.pipeline.apply_batch(voxels, labels, sources)
        _wait_for(device)
        augmenting = (time.perf_counter() - started) / len(batch)
    return Sides(worker, reading, augmenting, step)


def _seconds(dataset: PatchDataset, indices: Sequence[int]) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers do
    started = time.perf_counter()
    for index in indices:
        dataset[index]
    torch.set_num_threads(threads)
    return (time.perf_counter() - started) / len(indices)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
