"""A training step alone: segplan's against nnU-Net's, the same network, loss, optimiser and batch, in turn.

On the CPU: seconds a step and peak memory, 3D and 2D; nnU-Net computes in fp32 there, segplan in what `precision=auto`
chooses. On a CUDA device, where there is one: the steps of an epoch of 250, nnU-Net with its compilation on. The first
steps of a run warm caches up, or compile, and are left out. No data are loaded: `training_time.py` and
`loading_gpu.py` do that.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import (
    REPOSITORY,
    Measurement,
    core_count,
    in_turn,
    neutral_environment,
    print_comparison,
    print_machine,
    run_measured,
)
from reference_environment import Reference, add_reference_arguments, ensure_reference, run_benchmark
from training_step_cases import CPU_CASES, GPU_CASES

HERE = Path(__file__).resolve().parent
STEP, CPU_STEP = "s per step", "CPU s per step"
MEMORY, DEVICE_MEMORY = "peak memory, MiB", "peak memory of the GPU, MiB"
CPU_GOALS = {STEP: 0.5}
EPOCH = "s per epoch of 250 steps"
GPU_GOALS = {EPOCH: 0.6}
EPOCH_STEPS = 250


@dataclass(frozen=True)
class Side:
    """A program: how it is started, and the result of each of its runs."""

    python: str
    script: str
    environment: dict[str, str]
    options: tuple[str, ...]
    results: list[dict[str, Any]]

    def run(self, case: str, steps: int, device: str, threads: int, scratch: Path) -> Measurement:
        output = scratch / "result.json"
        command = [self.python, str(HERE / self.script), case, str(steps), device, str(threads), str(output)]
        cost = run_measured([*command, *self.options], scratch / "run.log", self.environment)
        self.results.append(json.loads(output.read_text()))
        return cost


def sides(reference: Reference, threads: int, options: Sequence[str], compile_reference: bool) -> dict[str, Side]:
    """Both programs, nnU-Net first."""
    common = {"OMP_NUM_THREADS": str(threads)}
    compiled = "true" if compile_reference else "f"
    theirs = neutral_environment(nnUNet_compile=compiled, **common)
    ours = neutral_environment(PYTHONPATH=str(REPOSITORY), **common)
    return {
        "nnU-Net": Side(str(reference.python), "training_step_reference.py", theirs, (), []),
        "segplan": Side(sys.executable, "training_step_segplan.py", ours, tuple(options), []),
    }


def compare(case: str, arguments: argparse.Namespace, device: str, reference: Reference, scratch: Path) -> None:
    """Run both programs in turn and print the table."""
    both = sides(reference, arguments.threads, arguments.override, compile_reference=device == "cuda")
    is_gpu = device == "cuda"
    steps = EPOCH_STEPS + arguments.warm_up if is_gpu else arguments.steps + arguments.warm_up

    def runner(side: Side) -> Any:
        return lambda number: side.run(case, steps, device, arguments.threads, scratch)

    measured = in_turn({name: runner(side) for name, side in both.items()}, arguments.repeats)
    seconds, memory, cpu = {}, {}, {}
    for name, side in both.items():
        later = [result["seconds"][arguments.warm_up :] for result in side.results]
        seconds[name] = [sum(values) if is_gpu else statistics.median(values) for values in later]
        cpu[name] = [statistics.median(result["cpu_seconds"][arguments.warm_up :]) for result in side.results]
        memory[name] = [result["device_mib"] for result in side.results]
        if not is_gpu:
            memory[name] = [cost.peak_mib for cost in measured[name]]
    print(f"\n{case}; segplan in {both['segplan'].results[0]['precision']}, {arguments.threads} threads")
    rows = {
        EPOCH if is_gpu else STEP: (seconds["segplan"], seconds["nnU-Net"]),
        CPU_STEP: (cpu["segplan"], cpu["nnU-Net"]),
        DEVICE_MEMORY if is_gpu else MEMORY: (memory["segplan"], memory["nnU-Net"]),
    }
    print_comparison(rows, GPU_GOALS if is_gpu else CPU_GOALS, digits=3)


def has_cuda() -> bool:
    """Whether this environment's torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    with tempfile.TemporaryDirectory(prefix="segplan-step-") as name:
        print_machine()
        for case in CPU_CASES:
            if arguments.only in case:
                compare(case, arguments, "cpu", reference, Path(name))
        if not has_cuda():
            print("\nGPU part: not run, there is no CUDA device")
            return 0
        for case in GPU_CASES:
            if arguments.only in case:
                compare(case, arguments, "cuda", reference, Path(name))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time and memory of a training step: segplan against nnU-Net 2.8.1.")
    add_reference_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run on the CPU (default 8)")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them (default 2)")
    parser.add_argument("--threads", type=int, default=core_count(), help="of both programs (default: one a core)")
    parser.add_argument("--only", default="", help="only cases whose name has this in it, e.g. 3D")
    parser.add_argument("override", nargs="*", help="of segplan's module, or precision, e.g. compile=true precision=32")
    return run_benchmark(body, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
