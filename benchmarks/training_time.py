"""Seconds per training iteration on the CPU: segplan's train.py against nnU-Net's trainer, the same budget in turn.

An epoch is 25 training and 4 validation batches of 2 patches. Both programs count the seconds of their epochs
themselves; the first epoch of a run is left out, because it warms caches up. Seconds per iteration are an epoch's
seconds over its training iterations.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmark_data import add_dataset_argument, raw_dataset
from measure import Measurement, cost_rows, in_turn, print_comparison, print_machine
from reference_environment import add_reference_arguments, ensure_reference, run_benchmark
from training_runs import Budget, ReferenceTraining, SegplanTraining

QUANTITY = "s per iteration"

# The validation of whole cases after training is not what is timed; this makes it short.
SHORT_VALIDATION = ("inference.mirror=false", "inference.step_size=1")

GOALS = {QUANTITY: 0.6}


def body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    with tempfile.TemporaryDirectory(prefix="segplan-training-") as name:
        scratch = Path(name)
        dataset = raw_dataset(arguments.dataset, scratch, phantom_cases=20)
        print_machine()
        budget = Budget(arguments.epochs, arguments.iterations, validation_batches=4)
        ours = SegplanTraining(scratch / "segplan", dataset)
        theirs = ReferenceTraining(reference, scratch / "reference", dataset)
        ours.prepare()
        theirs.prepare()
        seconds: dict[str, list[float]] = {"segplan": [], "nnU-Net": []}

        def run_reference(number: int) -> Measurement:
            run = f"round_{number}"
            cost = theirs.train(run, budget, validate=False)
            seconds["nnU-Net"].append(_per_iteration(theirs.epoch_seconds(run), budget))
            return cost

        def run_segplan(number: int) -> Measurement:
            run = f"round_{number}"
            cost = ours.train(run, budget, *SHORT_VALIDATION, *arguments.override)
            seconds["segplan"].append(_per_iteration(ours.epoch_seconds(run), budget))
            return cost

        measured = in_turn({"nnU-Net": run_reference, "segplan": run_segplan}, arguments.repeats)
    print_comparison({QUANTITY: (seconds["segplan"], seconds["nnU-Net"])}, GOALS, digits=3)
    print("\nThe whole commands; segplan's also segments the fold's whole validation cases at the end, in short:")
    print_comparison(cost_rows(measured["segplan"], measured["nnU-Net"]), {})
    return 0


def _per_iteration(epoch_seconds: Sequence[float], budget: Budget) -> float:
    later = epoch_seconds[1:] or epoch_seconds
    return statistics.mean(later) / budget.iterations


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Training time on the CPU: segplan against nnU-Net 2.8.1.")
    add_dataset_argument(parser)
    add_reference_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--epochs", type=int, default=3, help="of a run, the first is left out (default 3)")
    parser.add_argument("--iterations", type=int, default=25, help="of an epoch (default 25)")
    parser.add_argument(
        "override", nargs="*", help="further overrides of segplan's train.py, e.g. trainer.precision=32"
    )
    return run_benchmark(body, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
