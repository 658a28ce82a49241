"""What the loading benchmarks load: synthetic cases, the same arrays for both programs. Needs numpy alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CASES = 2
SEED = 0
FOREGROUND_SHARE = 0.33


@dataclass(frozen=True)
class Scenario:
    """One kind of patch.

    Args:
        patch: network patch.
        channels: image channels.
        classes: labels, background among them.
        shape: of the cases (z, y, x).
        batch: samples of a batch.
        samples: how many each side makes in a round: (segplan, nnU-Net).
        goal: how many times as many samples a second segplan should make.
    """

    name: str
    patch: tuple[int, ...]
    channels: int
    classes: int
    shape: tuple[int, int, int]
    batch: int
    samples: tuple[int, int]
    goal: float | None = None

    @property
    def folder(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}x{self.shape[2]}_{self.channels}ch_{self.classes}"


LARGE, THIN, SMALL = (220, 220, 220), (16, 640, 640), (48, 64, 48)
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("128³, 3 classes, 1 channel", (128,) * 3, 1, 3, LARGE, 2, (60, 30), 5),
        Scenario("128³, 3 classes, 4 channels", (128,) * 3, 4, 3, LARGE, 2, (40, 20), 5),
        Scenario("128³, 25 classes, 1 channel", (128,) * 3, 1, 25, LARGE, 2, (60, 20), 20),
        Scenario("128³, 25 classes, 4 channels", (128,) * 3, 4, 25, LARGE, 2, (40, 16), 20),
        Scenario("128³, 105 classes, 1 channel", (128,) * 3, 1, 105, LARGE, 2, (60, 12), 80),
        Scenario("128³, 105 classes, 4 channels", (128,) * 3, 4, 105, LARGE, 2, (40, 12), 80),
        Scenario("512², 3 classes, 1 channel", (512, 512), 1, 3, THIN, 12, (240, 120), 5),
        Scenario("40×56×40, 3 classes, 1 channel", (40, 56, 40), 1, 3, SMALL, 9, (900, 270), 5),
    )
}


def cases(scenario: Scenario) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image (C, Z, Y, X) float32 and label map (Z, Y, X) uint8 of each case."""
    for number in range(CASES):
        rng = np.random.default_rng([SEED, number])
        labels = _blobs(rng, scenario.shape, scenario.classes)
        image = np.empty((scenario.channels, *scenario.shape), np.float32)
        for index in range(scenario.channels):
            channel = image[index]
            rng.standard_normal(out=channel, dtype=np.float32)
            channel *= 0.5
            channel += labels * (3 / scenario.classes)
        yield f"case{number}", image, labels


def own_memory_mib() -> float:
    """Proportional set size of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _blobs(rng: np.random.Generator, shape: tuple[int, ...], classes: int) -> np.ndarray:
    """Bodies of all labels but 0, spread over the middle of the volume and filling about a third of it."""
    step = 4
    coarse = [-(-size // step) for size in shape]
    points = np.stack(np.meshgrid(*(np.arange(size) / size for size in coarse), indexing="ij"), -1).reshape(-1, 3)
    centres = rng.uniform(0.1, 0.9, (classes - 1, 3))
    radius = (0.35 / (classes - 1)) ** (1 / 3) * 0.75
    nearest, distance = np.zeros(len(points), np.uint8), np.full(len(points), np.inf)
    for label, centre in enumerate(centres, start=1):
        own = ((points - centre) ** 2).sum(1)
        nearer = own < distance
        nearest[nearer], distance[nearer] = label, own[nearer]
    nearest[distance > radius**2] = 0
    labels = nearest.reshape(coarse)
    for axis, size in enumerate(shape):
        labels = labels.repeat(step, axis).take(np.arange(size), axis)
    return np.ascontiguousarray(labels)
