"""Weights from synthetic CT for a real one: a phantom's organs as source, soft-tissue tumours (SarcomaCT) as target.

The source learns the five labels of `segplan phantom kind=ct`; the target adopts its plan and trains on four of its
nine cases, judged by the other five, fine-tuned and from scratch, three seeds each. What it gives is reported; nothing
is asked of it.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from finetuning import CONFIGURATION, SEEDS, print_table
from measure import BenchmarkFailed, neutral_environment, print_machine, run_logged
from reference_environment import run_benchmark

from segplan.dataset import Split, open_dataset, write_splits

SOURCE, TARGET, ADOPTED = "Dataset920_PhantomCT", "Dataset901_SarcomaCT", "adopted"
TRAINING_CASES = 4
FEATURES = "network.features=[16,32,64,128]"  # half of what is planned: thirteen trainings on a CPU


@dataclass(frozen=True)
class Study:
    """Where the study lives and how long it is.

    Args:
        workspace: segplan's.
        dataset: the raw target.
        iterations: of the source and of scratch at full length; the others have a quarter.
    """

    workspace: Path
    dataset: Path
    iterations: int

    @property
    def source_model(self) -> Path:
        return self.workspace / "runs" / SOURCE / CONFIGURATION / "default"

    def target_runs(self) -> dict[str, list[str]]:
        """Name of every run of the target to its own overrides."""
        weights = ["finetune=nnunet", f"finetune.checkpoint={self.source_model}"]
        short = self.length(self.iterations // 4)
        runs = {f"finetuned_{seed}": [f"seed={seed}", *short, *weights] for seed in SEEDS}
        runs |= {f"scratch_{seed}": [f"seed={seed}", *short] for seed in SEEDS}
        return runs | {"scratch_full": ["seed=0", *self.length(self.iterations)]}

    def length(self, iterations: int) -> list[str]:
        """Overrides for a training of so many iterations, in epochs of 25."""
        return [
            f"trainer.max_epochs={max(1, iterations // 25)}",
            "trainer.limit_train_batches=25",
            "trainer.limit_val_batches=2",
        ]

    def run(self, words: list[str], log: str) -> None:
        """Run a command of segplan in the workspace; its output goes to a file there."""
        own = [f"workspace={self.workspace}"] if words[0].endswith(".py") else []
        run_logged(self.workspace, [*words, *own], log, neutral_environment())

    def dice(self, run: str) -> float | None:
        """Mean Dice over the five unseen cases; None where the run is not finished."""
        folder = self.workspace / "runs" / TARGET / ADOPTED / CONFIGURATION / run
        path = folder / "fold_0" / "validation" / "summary.json"
        return float(json.loads(path.read_text())["foreground_mean"]["Dice"]) if path.is_file() else None


def prepare(study: Study) -> None:
    """Make and train the source, adopt its plan for the target; each step only once."""
    study.workspace.mkdir(parents=True, exist_ok=True)
    plan = ["plan.py", f"configurations=[{CONFIGURATION}]"]
    if not (study.source_model / "fold_all" / "weights.safetensors").is_file():
        raw = study.workspace / "raw" / SOURCE
        study.run(["-m", "segplan.cli", "phantom", str(raw), "kind=ct", "cases=20"], "phantom")
        study.run([*plan, f"dataset={raw}"], "plan_source")
        words = ["train.py", f"plan={SOURCE}/{CONFIGURATION}", "fold=all", FEATURES]
        study.run([*words, *study.length(study.iterations)], "source")
    marker = study.workspace / "plan" / TARGET / ADOPTED / "few_cases"
    if not marker.is_file():
        words = [f"dataset={study.dataset}", f"planner.adopt={study.source_model}", f"name={ADOPTED}"]
        study.run([*plan, *words], "plan_target")
        cases = sorted(case.identifier for case in open_dataset(study.dataset).cases)
        split = Split(tuple(cases[:TRAINING_CASES]), tuple(cases[TRAINING_CASES:]))
        write_splits(marker.parent / "splits_final.json", [split])
        marker.touch()


def body(arguments: argparse.Namespace) -> int:
    folder = os.environ.get("SEGPLAN_TEST_DATA")
    dataset = arguments.dataset or (Path(folder) / TARGET if folder else None)
    if dataset is None or not (dataset / "dataset.json").is_file():
        raise BenchmarkFailed(f"there is no {TARGET}: set SEGPLAN_TEST_DATA to the folder that holds it, or --dataset")
    with ExitStack() as stack:
        scratch = arguments.workspace or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segplan-ct-")))
        study = Study(scratch.absolute(), dataset.absolute(), arguments.iterations)
        print_machine()
        prepare(study)
        runs = study.target_runs()
        for name, overrides in runs.items():
            if study.dice(name) is None:
                words = [f"plan={TARGET}/{ADOPTED}/{CONFIGURATION}", "fold=0", f"run={name}", FEATURES]
                study.run(["train.py", *words, *overrides], name)
        print_table({name: dice for name in runs if (dice := study.dice(name)) is not None})
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fine-tuning on SarcomaCT from a phantom CT, against scratch.")
    parser.add_argument("--dataset", type=Path, help=f"the raw target (default: {TARGET} in $SEGPLAN_TEST_DATA)")
    parser.add_argument("--workspace", type=Path, help="kept folder; finished runs in it are not trained again")
    parser.add_argument("--iterations", type=int, default=1000, help="of the source and of scratch at full length")
    return run_benchmark(body, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
