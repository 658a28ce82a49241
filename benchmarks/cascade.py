"""What the cascade's second stage adds to its first: Dice on a phantom whose images exceed the patch, three seeds.

Each image holds a bright bar, which is wanted, and a dark one. Its surface is corrugated about as finely as the low
resolution's voxels: its outline shows at full resolution only. A seed trains both folds of 3d_lowres and fold 0 of
3d_cascade_fullres by `segplan cascade`; both are judged on the fold's whole validation cases.

Each seed is a command that runs once: with a kept `--workspace` the script goes on where it was stopped, and `--only`
makes it do a single seed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import REPOSITORY, BenchmarkFailed, neutral_environment, print_machine, run_logged

from segplan.imaging import Geometry, write_label_map

DATASET = "Dataset961_Bars"
FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
SEEDS = (0, 1, 2)
SHAPE = (48, 64, 64)
# A card of 30 MB: the patch is an eighth of the image and less.
PLAN = (f"configurations=[{FIRST},{SECOND}]", "planner.gpu_memory_gb=0.03", "split.k=2", "num_workers=0")
BUDGET = (
    "network.features=[8,16,32]",
    "data.batch_size=2",
    "data.num_workers=0",
    "trainer.limit_val_batches=1",
    "trainer.precision=32",
    "inference.mirror=false",
)


@dataclass(frozen=True)
class Study:
    """Folder and length of the study."""

    root: Path
    cases: int
    epochs: int
    iterations: int

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    def prepare(self) -> None:
        """Make, plan and preprocess the phantom, once."""
        raw, marker = self.root / "raw" / DATASET, self.root / "planned"
        if not (raw / "dataset.json").is_file():
            make_dataset(raw, self.cases)
        if not marker.is_file():
            self.command(["plan.py", f"dataset={raw}", f"workspace={self.workspace}", *PLAN], "plan")
            marker.touch()

    def train(self, seed: int) -> None:
        """Run the chain of one seed, going on where it was stopped."""
        words = [f"run=seed_{seed}", f"seed={seed}", "folds=0", f"workspace={self.workspace}"]
        words += [f"trainer.max_epochs={self.epochs}", f"trainer.limit_train_batches={self.iterations}", *BUDGET]
        self.command(["-m", "segplan.cli", "cascade", DATASET, *words], f"seed_{seed}")

    def command(self, words: Sequence[str], log: str) -> None:
        environment = neutral_environment(OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY))
        run_logged(self.root, words, log, environment)

    def dice(self, configuration: str, seed: int) -> float | None:
        """Mean Dice over the validation cases of fold 0; None where it is not finished."""
        run = self.workspace / "runs" / DATASET / configuration / f"seed_{seed}"
        path = run / "fold_0" / "validation" / "summary.json"
        return float(json.loads(path.read_text())["foreground_mean"]["Dice"]) if path.is_file() else None


def make_dataset(folder: Path, cases: int) -> None:
    """Write the phantom in nnU-Net's raw layout; dataset.json comes last."""
    import SimpleITK

    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    geometry = Geometry(3, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))
    for number in range(cases):
        image, labels = draw_case(number)
        volume = SimpleITK.GetImageFromArray(image)
        SimpleITK.WriteImage(volume, str(folder / "imagesTr" / f"bars_{number:02d}_0000.nii.gz"))
        write_label_map(folder / "labelsTr" / f"bars_{number:02d}.nii.gz", labels, geometry)
    description = {
        "name": folder.name,
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "bar": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def draw_case(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (Z, Y, X) float32 and its labels uint8; a pure function of the number."""
    rng = np.random.default_rng(number)
    z, y, x = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    image = rng.normal(0, 0.25, SHAPE)
    wanted = int(rng.integers(2))
    for bar in range(2):
        row = SHAPE[1] * (1 + 2 * bar) / 4 + rng.uniform(-3, 3)
        phase = rng.uniform(0, 2 * np.pi, 2)
        radius = 6 + 2 * np.sign(np.sin(2 * np.pi * x / 4 + phase[0]) * np.sin(2 * np.pi * z / 4 + phase[1]))
        depth = SHAPE[0] / 2 + rng.uniform(0, 6)
        inside = (np.hypot(y - row, z - depth) < radius) & (abs(x - SHAPE[2] / 2) < 24)
        image[inside] += 1.5 if bar == wanted else -1.5
        if bar == wanted:
            labels = inside
    return image.astype(np.float32), labels.astype(np.uint8)


def print_verdict(dice: dict[int, tuple[float, float]]) -> bool:
    """The table, and whether the second stage is not below the first; returns that."""
    print(f"\n| seed | {FIRST} | {SECOND} | difference |\n|---|---|---|---|")
    for seed, (first, second) in dice.items():
        print(f"| {seed} | {first:.4f} | {second:.4f} | {second - first:+.4f} |")
    first, second = (statistics.mean(values) for values in zip(*dice.values(), strict=True))
    holds = second >= first
    print(f"\nmeans {first:.4f} and {second:.4f}: {'PASS' if holds else 'FAIL'} (not below {FIRST} was asked for)")
    return holds


def body(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        scratch = arguments.workspace or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="segplan-stages-"))
        )
        study = Study(scratch.absolute(), arguments.cases, arguments.epochs, arguments.iterations)
        study.root.mkdir(parents=True, exist_ok=True)
        print_machine()
        study.prepare()
        for seed in SEEDS:
            if arguments.only in (None, seed) and study.dice(SECOND, seed) is None:
                study.train(seed)
        found = {seed: (study.dice(FIRST, seed), study.dice(SECOND, seed)) for seed in SEEDS}
        dice = {seed: (one, two) for seed, (one, two) in found.items() if one is not None and two is not None}
        if len(dice) < len(SEEDS):
            print(f"finished: {len(dice)} of {len(SEEDS)} seeds")
            for seed, (one, two) in dice.items():
                print(f"seed {seed}: {one:.4f} {two:.4f}")
            return 0
        return 0 if print_verdict(dice) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The cascade's second stage beside its first.")
    parser.add_argument("--workspace", type=Path, help="kept folder; finished seeds in it are not trained again")
    parser.add_argument("--cases", type=int, default=8, help="phantoms, half of them for validation")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=40, help="of an epoch")
    parser.add_argument("--only", type=int, choices=SEEDS, help="do one seed")
    try:
        return body(parser.parse_args(argv))
    except BenchmarkFailed as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
