"""What regions, an ignore label and sparse annotations cost: four versions of one phantom, three seeds each.

The images, the plan's network, patch and budget are the same; only the labels differ: `plain` labels; `regions` (all
organs together, and each but the first by itself); `ignore` (a third of each case's slices not annotated); `sparse`
(80 % of each slice's voxels not annotated, at random). Every version is judged by the Dice of the fold's whole
validation cases against the plain label maps, all voxels of them: over the labels, and for the regions over what these
stand for, in the plain version's label maps too.

Every run is a command of its own with one thread, as many at once as there are cores, and runs once: with a kept
`--workspace` the script goes on where it was stopped, and `--only` makes it do a single run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import REPOSITORY, BenchmarkFailed, core_count, neutral_environment, print_machine, run_logged

from segplan.dataset import read_splits
from segplan.imaging import read_label_map, write_label_map

CONFIGURATION = "3d_fullres"
SEEDS = (0, 1, 2)
LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "stomach": 4, "lesion": 5}
IGNORE = 6
SLICES_LEFT_OUT, VOXELS_LEFT_OUT = 1 / 3, 0.8
ORGANS, LABEL_MEAN, REGION_MEAN = "all organs", "mean over labels", "mean over regions"
TARGETS = {name: (value,) for name, value in LABELS.items() if value} | {ORGANS: (1, 2, 3, 4, 5)}
OF_REGIONS = ("spleen", "kidney", "stomach", "lesion", ORGANS)
DATASETS = {
    "plain": "Dataset950_Plain",
    "regions": "Dataset951_Regions",
    "ignore": "Dataset952_Ignore",
    "sparse": "Dataset953_Sparse",
}
# The means over seeds may be below the plain version's by this much, or must be this share of it.
MARGIN, SPARSE_SHARE = 0.02, 0.9
# A thin network on small patches and an optimiser that is quick at the start: the phantom is learnt in minutes on one
# core. (After half as many steps of SGD Dice is below 0.8 with a third of the slices hidden, and still rising fast.)
BUDGET = (
    "network.features=[8,16,32,64]",
    "optimizer=adamw",
    "optimizer.lr=0.003",
    "network.strides=[[1,1,1],[2,2,2],[2,2,2],[2,2,2]]",
    "network.kernel_sizes=[[3,3,3],[3,3,3],[3,3,3],[3,3,3]]",
    "data.patch_size=[24,32,32]",
    "data.batch_size=2",
    "data.num_workers=0",
    "trainer.limit_train_batches=50",
    "trainer.limit_val_batches=1",
    "inference.mirror=false",
)


@dataclass(frozen=True)
class Study:
    """Folder and length of the study."""

    root: Path
    cases: int
    epochs: int

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    def raw(self, kind: str) -> Path:
        return self.root / "raw" / DATASETS[kind]

    def prepare(self) -> None:
        """Make, plan and preprocess the four datasets, each once."""
        plain = self.raw("plain")
        words = ["-m", "segplan.cli", "phantom", str(plain), "kind=ct", f"cases={self.cases}", "seed=0"]
        if not (plain / "dataset.json").is_file():
            self.command(words, "phantom")
        for kind in DATASETS:
            if not (self.raw(kind) / "dataset.json").is_file():
                write_version(plain, self.raw(kind), kind)
            if not self.marker(kind).is_file():
                words = [f"dataset={self.raw(kind)}", f"workspace={self.workspace}"]
                self.command(["plan.py", *words, f"configurations=[{CONFIGURATION}]"], f"plan_{kind}")
                self.marker(kind).touch()

    def marker(self, kind: str) -> Path:
        return self.root / f"planned_{kind}"

    def train(self, kind: str, seed: int) -> None:
        """Train one run, going on where it was stopped."""
        words = [f"plan={DATASETS[kind]}/{CONFIGURATION}", f"run=seed_{seed}", f"seed={seed}", "fold=0"]
        words += [f"workspace={self.workspace}", f"trainer.max_epochs={self.epochs}", *BUDGET]
        self.command(["train.py", *words], f"{kind}_{seed}")

    def train_at_once(self, names: Sequence[str]) -> None:
        """Do runs side by side, each in a call of this script, so that what they cost is counted apart."""
        with ThreadPoolExecutor(core_count()) as executor:
            for _ in executor.map(self._train_apart, names):
                pass

    def _train_apart(self, name: str) -> None:
        words = ["--workspace", self.root, "--cases", self.cases, "--epochs", self.epochs, "--only", name]
        command = [sys.executable, __file__, *(str(word) for word in words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkFailed(done.stderr.strip() or done.stdout.strip())
        print(next((line for line in done.stdout.splitlines() if line.startswith(name)), name), flush=True)

    def command(self, words: Sequence[str], log: str) -> None:
        """Run one of segplan's commands with one thread, so that its result does not depend on the machine's cores."""
        environment = neutral_environment(OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY))
        run_logged(self.root, words, log, environment)

    def dice(self, kind: str, seed: int) -> dict[str, float] | None:
        """Dice of each target and two means against the plain label maps; None where the run is not finished.

        The means: over the labels, and over what the regions stand for.
        """
        runs = self.workspace / "runs" / DATASETS[kind] / CONFIGURATION
        folder = runs / f"seed_{seed}" / "fold_0" / "validation"
        if not (folder / "summary.json").is_file():
            return None
        cases = read_splits(self.workspace / "plan" / DATASETS["plain"] / "splits_final.json")[0].validation
        scores: dict[str, list[float]] = {name: [] for name in TARGETS}
        for case in cases:
            predicted = np.asarray(read_label_map(folder / f"{case}.nii.gz").array[0])
            reference = np.asarray(read_label_map(self.raw("plain") / "labelsTr" / f"{case}.nii.gz").array[0])
            for name, values in TARGETS.items():
                ours, theirs = np.isin(predicted, values), np.isin(reference, values)
                if total := np.count_nonzero(ours) + np.count_nonzero(theirs):
                    scores[name].append(float(2 * np.count_nonzero(ours & theirs) / total))
        means = {name: statistics.mean(values) for name, values in scores.items() if values}
        over_labels = statistics.mean(value for name, value in means.items() if name != ORGANS)
        over_regions = statistics.mean(value for name, value in means.items() if name in OF_REGIONS)
        return means | {LABEL_MEAN: over_labels, REGION_MEAN: over_regions}


def write_version(plain: Path, folder: Path, kind: str) -> None:
    """The plain dataset with other labels; images are links. dataset.json comes last."""
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    (folder / "labelsTr").mkdir(exist_ok=True)
    for image in (plain / "imagesTr").iterdir():
        link = folder / "imagesTr" / image.name
        if not link.exists():
            link.symlink_to(image.resolve())
    for number, path in enumerate(sorted((plain / "labelsTr").iterdir())):
        labels = read_label_map(path)
        array = np.asarray(labels.array[0])
        write_label_map(folder / "labelsTr" / path.name, hide(array, kind, number), labels.geometry)
    content = json.loads((plain / "dataset.json").read_text(encoding="utf-8"))
    content |= {"name": folder.name, **label_entries(kind)}
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def hide(labels: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Labels (Z, Y, X) with the ignore label where the version leaves voxels out."""
    rng = np.random.default_rng(seed)
    hidden = np.zeros(labels.shape, bool)
    if kind == "ignore":
        hidden[rng.permutation(len(labels))[: round(SLICES_LEFT_OUT * len(labels))]] = True
    elif kind == "sparse":
        per_slice = labels[0].size
        for plane in hidden:
            plane.reshape(-1)[rng.permutation(per_slice)[: round(VOXELS_LEFT_OUT * per_slice)]] = True
    return np.where(hidden, IGNORE, labels).astype(np.uint8)


def label_entries(kind: str) -> dict[str, Any]:
    """What the version's dataset.json says of its labels."""
    if kind == "regions":
        single = {name: value for name, value in LABELS.items() if value > 1}
        organs = {"background": 0, "organs": [value for value in LABELS.values() if value]}
        return {"labels": organs | single, "regions_class_order": [1, *single.values()]}
    return {"labels": LABELS | ({"ignore": IGNORE} if kind in ("ignore", "sparse") else {})}


def print_verdict(dice: Mapping[tuple[str, int], Mapping[str, float]]) -> bool:
    """The table, and whether every version holds what is asked of it; returns that."""
    print_table(dice)
    print()
    holds = True
    for kind in DATASETS:
        mean = REGION_MEAN if kind == "regions" else LABEL_MEAN
        plain, values = ([one[mean] for (other, _), one in dice.items() if other == name] for name in ("plain", kind))
        reached = statistics.mean(values)
        floor = statistics.mean(plain) * SPARSE_SHARE if kind == "sparse" else statistics.mean(plain) - MARGIN
        holds = holds and reached >= floor
        asked = f", at least {floor:.4f} was asked for: {'PASS' if reached >= floor else 'FAIL'}"
        print(f"{kind}: {mean} {reached:.4f}, {min(values):.4f} to {max(values):.4f}{'' if kind == 'plain' else asked}")
    return holds


def print_table(dice: Mapping[tuple[str, int], Mapping[str, float]]) -> None:
    """A Markdown table, a line a run."""
    columns = [*TARGETS, LABEL_MEAN, REGION_MEAN]
    print(f"\n| version, seed | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for (kind, seed), values in dice.items():
        print(f"| {kind}, {seed} | {' | '.join(f'{values[c]:.3f}' if c in values else '' for c in columns)} |")


def body(arguments: argparse.Namespace) -> int:
    runs = {f"{kind}_{seed}": (kind, seed) for seed in SEEDS for kind in DATASETS}
    if arguments.only not in (None, *runs):
        raise BenchmarkFailed(f"there is no run {arguments.only}; there are {', '.join(runs)}")
    with ExitStack() as stack:
        scratch = arguments.workspace or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segplan-kinds-")))
        study = Study(scratch.absolute(), arguments.cases, arguments.epochs)
        print_machine()
        study.prepare()
        missing = [name for name, run in runs.items() if study.dice(*run) is None]
        if arguments.only is None:
            study.train_at_once(missing)
        elif arguments.only in missing:
            study.train(*runs[arguments.only])
        dice = {run: value for run in runs.values() if (value := study.dice(*run)) is not None}
        if len(dice) < len(runs):
            print(f"finished: {len(dice)} of {len(runs)} runs")
            print_table(dice)
            return 0
        return 0 if print_verdict(dice) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Regions, an ignore label and sparse annotations beside plain labels.")
    parser.add_argument("--workspace", type=Path, help="kept folder; finished runs in it are not trained again")
    parser.add_argument("--cases", type=int, default=40, help="phantoms, a fifth of them for validation")
    parser.add_argument("--epochs", type=int, default=40, help="of 50 iterations each")
    parser.add_argument("--only", help="do one run: plain_0, regions_0, ignore_0, sparse_0 … sparse_2")
    try:
        return body(parser.parse_args(argv))
    except BenchmarkFailed as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
