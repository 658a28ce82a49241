"""What pretrained weights are worth with few cases: fine-tuning at a tenth of the iterations against scratch.

The source is trained on the training cases of fold 0 with all labels merged into one; the target has all labels, ten
of those cases to train on, and the fold's validation cases to be judged by. The target's plan is adopted from the
source. Every run is a command of its own and runs once: with a kept `--workspace` the script goes on where it was
stopped, and `--only` makes it do a single run.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmark_data import add_dataset_argument, raw_dataset
from measure import BenchmarkFailed, neutral_environment, print_machine, run_logged
from reference_environment import run_benchmark

from segplan.dataset import Split, open_dataset, read_splits, write_splits
from segplan.imaging import read_label_map, write_label_map

CONFIGURATION = "3d_fullres"
SOURCE, ADOPTED = "Dataset944_Merged", "adopted"
SEEDS = (0, 1, 2)
TARGET_CASES = 10
# Fine-tuned must exceed scratch by this and by this many times the larger range over seeds.
MARGIN, RANGES = 0.05, 2.0


@dataclass(frozen=True)
class Study:
    """Folders and lengths of the study.

    Args:
        workspace: segplan's.
        dataset: the raw target dataset.
        iterations: of the source and of scratch at full length; the others have a tenth.
        recipe: of fine-tuning.
    """

    workspace: Path
    dataset: Path
    iterations: int
    recipe: str

    @property
    def source_model(self) -> Path:
        return self.workspace / "runs" / SOURCE / CONFIGURATION / "default"

    @property
    def target(self) -> str:
        return f"{self.dataset.name}/{ADOPTED}/{CONFIGURATION}"

    def runs(self) -> dict[str, list[str]]:
        """Name of every run of the target to its own overrides."""
        full, tenth = self.length(self.iterations), self.length(self.iterations // 10)
        weights = [f"finetune={self.recipe}", f"finetune.checkpoint={self.source_model}"]
        runs = {f"finetuned_{seed}": [f"seed={seed}", *tenth, *weights] for seed in SEEDS}
        runs |= {f"scratch_{seed}": [f"seed={seed}", *tenth] for seed in SEEDS}
        return runs | {"scratch_full": ["seed=0", *full]}

    def length(self, iterations: int) -> list[str]:
        """Overrides for a training of so many iterations, in epochs of 10."""
        epochs = max(1, iterations // 10)
        return [f"trainer.max_epochs={epochs}", "trainer.limit_train_batches=10", "trainer.limit_val_batches=1"]

    def plan(self, dataset: Path, *more: str) -> None:
        """Plan and preprocess what is not done yet."""
        words = [f"dataset={dataset}", f"workspace={self.workspace}", f"configurations=[{CONFIGURATION}]", *more]
        self.run("plan.py", words, f"plan_{dataset.name}")

    def train(self, address: str, run: str, *overrides: str) -> None:
        """Train, going on where a stopped run is."""
        words = [f"plan={address}", f"run={run}", f"workspace={self.workspace}", "data.batch_size=2", *overrides]
        self.run("train.py", words, run)

    def run(self, script: str, words: Sequence[str], log: str) -> None:
        run_logged(self.workspace, [script, *words], log, neutral_environment())

    def dice(self, run: str) -> float | None:
        """Mean Dice over the fold's whole validation cases; None where the run is not finished."""
        path = self.workspace / "runs" / self.target / run / "fold_0" / "validation" / "summary.json"
        return float(json.loads(path.read_text())["foreground_mean"]["Dice"]) if path.is_file() else None


def prepare(study: Study) -> None:
    """Plan the target for its folds, make and train the source, adopt its plan; each step only once."""
    study.workspace.mkdir(parents=True, exist_ok=True)
    splits = study.workspace / "plan" / study.dataset.name / "splits_final.json"
    if not splits.is_file():
        study.plan(study.dataset, "stages=[verify,fingerprint,plan]")
    fold = read_splits(splits)[0]
    raw = study.workspace / "raw" / SOURCE
    if not (raw / "dataset.json").is_file():
        write_merged(study.dataset, raw, fold.train)
    if not (study.source_model / "fold_0" / "weights.safetensors").is_file():
        study.plan(raw)
        # Trained on all of them; segmenting one is enough to see that it worked.
        write_splits(study.workspace / "plan" / SOURCE / "splits_final.json", [Split(fold.train, fold.train[:1])])
        study.train(f"{SOURCE}/{CONFIGURATION}", "default", "fold=0", *study.length(study.iterations))
    adopted = study.workspace / "plan" / study.dataset.name / ADOPTED
    marker = adopted / "few_cases"
    if not marker.is_file():
        study.plan(study.dataset, f"planner.adopt={study.source_model}", f"name={ADOPTED}")
        chosen = np.random.default_rng(0).choice(
            np.array(fold.train), min(TARGET_CASES, len(fold.train)), replace=False
        )
        write_splits(adopted / "splits_final.json", [Split(tuple(sorted(map(str, chosen))), fold.validation)])
        marker.touch()


def write_merged(dataset: Path, folder: Path, cases: Sequence[str]) -> None:
    """A raw dataset of `cases` in which every label above 0 is 1; images are links. dataset.json comes last."""
    raw = open_dataset(dataset)
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    (folder / "labelsTr").mkdir(exist_ok=True)
    for case in raw.cases:
        if case.identifier not in cases or case.label is None:
            continue
        for image in case.images:
            link = folder / "imagesTr" / image.name
            if not link.exists():
                link.symlink_to(image.resolve())
        labels = read_label_map(case.label)
        merged = (np.asarray(labels.array[0]) > 0).astype(np.uint8)
        write_label_map(folder / "labelsTr" / case.label.name, merged, labels.geometry)
    content = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    content |= {"labels": {"background": 0, "foreground": 1}, "numTraining": len(cases), "name": SOURCE}
    content.pop("regions_class_order", None)
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def print_table(dice: Mapping[str, float]) -> tuple[float, float]:
    """Every run and the means; returns the gain of fine-tuning, and the wider range over seeds."""
    print("\n| run | mean Dice |\n|---|---|")
    for name, value in dice.items():
        print(f"| {name} | {value:.4f} |")
    tuned, scratch = ([dice[f"{kind}_{seed}"] for seed in SEEDS] for kind in ("finetuned", "scratch"))
    gain = statistics.mean(tuned) - statistics.mean(scratch)
    widest = max(max(values) - min(values) for values in (tuned, scratch))
    print(f"\nfine-tuned {statistics.mean(tuned):.4f}, scratch {statistics.mean(scratch):.4f}, gain {gain:.4f}")
    print(f"scratch at full length {dice['scratch_full']:.4f}, wider range over seeds {widest:.4f}")
    return gain, widest


def print_verdict(dice: Mapping[str, float]) -> bool:
    """The table, and whether fine-tuning holds what is asked of it; returns that."""
    gain, widest = print_table(dice)
    holds = gain >= MARGIN and gain >= RANGES * widest
    verdict = "PASS" if holds else "FAIL"
    print(
        f"{verdict}: at least {MARGIN}, and {RANGES:g} times the wider range over seeds, {widest:.4f}, were asked for"
    )
    return holds


def body(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        scratch = arguments.workspace or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segplan-tune-")))
        dataset = raw_dataset(arguments.dataset, scratch, phantom_cases=20)
        study = Study(scratch.absolute() / "segplan", dataset, arguments.iterations, arguments.recipe)
        print_machine()
        prepare(study)
        runs = study.runs()
        if arguments.only is not None and arguments.only not in (*runs, "source"):
            raise BenchmarkFailed(f"there is no run {arguments.only}; there are source, {', '.join(runs)}")
        for name, overrides in runs.items():
            if arguments.only in (None, name) and study.dice(name) is None:
                study.train(study.target, name, "fold=0", *overrides)
        dice = {name: value for name in runs if (value := study.dice(name)) is not None}
        if len(dice) < len(runs):
            print(f"finished: {', '.join(dice) or 'the source'}; left: {', '.join(n for n in runs if n not in dice)}")
            return 0
        return 0 if print_verdict(dice) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fine-tuning at a tenth of the iterations against scratch.")
    add_dataset_argument(parser)
    parser.add_argument("--workspace", type=Path, help="kept folder; finished runs in it are not trained again")
    parser.add_argument("--iterations", type=int, default=1000, help="of the source and of scratch at full length")
    parser.add_argument("--recipe", default="nnunet", help="option of the group finetune (default: nnunet)")
    parser.add_argument("--only", help="do one run: source, finetuned_0, scratch_0 …, scratch_full")
    return run_benchmark(body, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
