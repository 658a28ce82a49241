"""Ten optimiser steps without noise: does segplan's step follow nnU-Net's own?

Both programs start from the weights that nnU-Net drew and take the same ten stored batches, without augmentation, in
fp32. Each makes its own deep-supervision targets, loss, clipping and SGD step. After every step the loss, the norm of
the gradient before clipping and all weights are compared.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import REPOSITORY, neutral_environment, print_machine, run_measured
from reference_environment import Reference, add_reference_arguments, ensure_reference, run_benchmark
from step_plan import BATCH, CHANNELS, CLASSES, PATCH, STEPS, THREADS

TOLERANCE = 1e-4
HERE = Path(__file__).resolve().parent

# The gradient of a bias in front of an instance norm is zero but for rounding: the norm takes the bias out again.
# Such a bias stays at some 1e-9, where a relative difference says nothing; it counts in the distance over all weights
# only.
WITHOUT_EFFECT = ".conv.bias"


@dataclass(frozen=True)
class StepDifference:
    """How far segplan is from nnU-Net after one step, all relative to nnU-Net's value.

    `weights` is the Euclidean distance of all weights together, `worst_tensor` the largest such distance of a single
    tensor, `change` the distance of what the weights moved by since the start. The last two are shown only: within two
    or three steps, rounding alone lets nnU-Net differ from itself by more than the tolerance there (`--full`).
    """

    loss: float
    gradient_norm: float
    weights: float
    worst_tensor: float
    change: float

    @property
    def agrees(self) -> bool:
        return max(self.loss, self.gradient_norm, self.weights) <= TOLERANCE


def structured_batches(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, B, C, Z, Y, X) float32 and label maps (N, B, Z, Y, X) int16 that a network can learn from.

    Two touching ellipsoids of random pose with intensities of their own, a smooth bias and noise, brought to mean 0
    and standard deviation 1, as after z-score normalisation.
    """
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(size, dtype=np.float32) for size in PATCH), indexing="ij")
    images = np.empty((STEPS, BATCH, CHANNELS, *PATCH), np.float32)
    labels = np.zeros((STEPS, BATCH, *PATCH), np.int16)
    for index in np.ndindex(STEPS, BATCH):
        centre = np.array(PATCH) * rng.uniform(0.35, 0.65, 3)
        for label in range(1, CLASSES):
            radii = np.array(PATCH) * rng.uniform(0.08, 0.2, 3)
            distance = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True))
            labels[index][distance <= 1] = label
            centre = centre + rng.uniform(-1, 1, 3) * radii
        intensities = np.array([0.0, 1.0, 1.6]) + rng.normal(0, 0.2, CLASSES)
        bias = sum(x / size * rng.normal(0, 0.5) for x, size in zip(axes, PATCH, strict=True))
        image = intensities[labels[index]] + bias + rng.normal(0, 0.5, PATCH)
        images[index] = (image - image.mean()) / image.std()
    return images, labels


def compare_step(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray]
) -> tuple[float, float, float]:
    """Relative distances of the weights: all together, the worst tensor, and the change since `start`.

    Raises:
        KeyError: the two sides do not have the same names.
    """
    if set(ours) != set(theirs):
        raise KeyError(f"names differ: {sorted(set(ours) ^ set(theirs))[:5]}")
    squared = {name: (_squared(ours[name] - theirs[name]), _squared(theirs[name])) for name in theirs}
    moved = sum(_squared(theirs[name] - start[name]) for name in theirs)
    apart = sum(difference for difference, _ in squared.values())
    worst = max((d / s) ** 0.5 for name, (d, s) in squared.items() if not name.endswith(WITHOUT_EFFECT) and s > 0)
    return (apart / sum(size for _, size in squared.values())) ** 0.5, worst, (apart / moved) ** 0.5


def _squared(array: np.ndarray) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def relative(ours: float, theirs: float) -> float:
    """Difference relative to `theirs`."""
    return abs(ours - theirs) / abs(theirs)


def compare(ours: Path, theirs: Path) -> list[StepDifference]:
    """Compare what the two sides wrote, step by step."""
    traces = [json.loads((folder / "trace.json").read_text()) for folder in (ours, theirs)]
    start = dict(np.load(theirs / "weights_0.npz"))
    differences = []
    for step in range(STEPS):
        weights = [dict(np.load(folder / f"weights_{step + 1}.npz")) for folder in (ours, theirs)]
        loss, norm = (relative(*(trace[key][step] for trace in traces)) for key in ("loss", "gradient_norm"))
        differences.append(StepDifference(loss, norm, *compare_step(weights[0], weights[1], start)))
    return differences


def print_table(title: str, differences: Sequence[StepDifference], theirs: Path) -> None:
    """A Markdown table, a line a step."""
    print(f"\n{title}")
    trace = json.loads((theirs / "trace.json").read_text())
    print(
        "\n| step | nnU-Net's loss | its gradient norm "
        "| Δ loss | Δ norm | Δ weights | Δ worst tensor | Δ change since start |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for step, one in enumerate(differences):
        print(
            f"| {step + 1} | {trace['loss'][step]:.6f} | {trace['gradient_norm'][step]:.6f} | {one.loss:.1e} "
            f"| {one.gradient_norm:.1e} | {one.weights:.1e} | {one.worst_tensor:.1e} | {one.change:.1e} |"
        )


def run_reference(reference: Reference, batches: Path, output: Path, threads: int) -> None:
    """nnU-Net's ten steps; it draws the same initial weights each time."""
    command: list[str | Path] = [reference.python, HERE / "reference_step.py", batches, output, str(threads)]
    run_measured(command, output / "log", neutral_environment())


def body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    print_machine()
    with tempfile.TemporaryDirectory(prefix="segplan-step-") as name:
        scratch = Path(name)
        ours, theirs, again, batches = (scratch / name for name in ("segplan", "reference", "again", "batches.npz"))
        for folder in (ours, theirs, again):
            folder.mkdir()
        images, labels = structured_batches(arguments.seed)
        np.savez(batches, images=images, labels=labels)
        run_reference(reference, batches, theirs, THREADS)
        command = [Path(sys.executable), HERE / "segplan_step.py", batches, theirs / "weights_0.npz", ours]
        path = os.pathsep.join((str(REPOSITORY), str(HERE)))
        run_measured(command, scratch / "segplan.log", neutral_environment(PYTHONPATH=path))
        differences = compare(ours, theirs)
        print_table("segplan against nnU-Net", differences, theirs)
        if arguments.full:
            run_reference(reference, batches, again, 1)
            title = f"For scale: nnU-Net with 1 thread against nnU-Net with {THREADS}"
            print_table(title, compare(again, theirs), theirs)
    passed = all(one.agrees for one in differences)
    print(
        f"\n{'PASS' if passed else 'FAIL'}: loss, gradient norm and weights "
        f"within {TOLERANCE:g} (relative) at every step"
    )
    return 0 if passed else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Ten noise-free training steps: segplan against nnU-Net 2.8.1.")
    add_reference_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the stored batches (default 0)")
    parser.add_argument(
        "--full", action="store_true", help="also show how far nnU-Net is from itself by rounding alone"
    )
    return run_benchmark(body, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
