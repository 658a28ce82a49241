"""Samples a second and core: segplan's loader against nnU-Net's, on the same synthetic preprocessed cases.

Each side makes samples end to end (read, crop, augment, collate) in one process with one thread, as a loader process
does. Samples per core-second are samples over the CPU seconds of that process, so that other load on the machine counts
less. `--full` makes twice the samples and also times single transforms at every size of patch.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loading_cases import SCENARIOS, Scenario
from measure import (
    REPOSITORY,
    BenchmarkFailed,
    median_and_range,
    neutral_environment,
    print_machine,
    run_measured,
    warm_file_cache,
)
from reference_environment import (
    Reference,
    ReferenceFolders,
    add_reference_arguments,
    ensure_reference,
    run_benchmark,
)

MEMORY_GOAL = 0.5
TRANSFORM_REPEATS = 12
TRANSFORM_SCENARIOS = ("128³, 3 classes, 1 channel", "128³, 105 classes, 1 channel")
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Side:
    """One program: how its script is started, and which of `Scenario.samples` is its."""

    name: str
    python: str
    script: str
    environment: Mapping[str, str]
    column: int


@dataclass
class Loading:
    """What the rounds of one side and scenario cost."""

    samples_per_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    own_mib: list[float] = field(default_factory=list)


def body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    chosen = [SCENARIOS[name] for name in SCENARIOS if not arguments.only or arguments.only in name]
    if not chosen:
        raise BenchmarkFailed(f"--only {arguments.only}: no scenario has that in its name: {', '.join(SCENARIOS)}")
    print_machine()
    with tempfile.TemporaryDirectory(prefix="segplan-loading-", dir=arguments.scratch) as name:
        scratch = Path(name)
        sides = _sides(reference, scratch)
        rows = []
        for scenario in chosen:
            rows.append((scenario, _compare(sides, scenario, scratch, arguments)))
            _print_row(*rows[-1])
        _print_table(rows)
        alone = chosen if arguments.full else [one for one in chosen if one.name in TRANSFORM_SCENARIOS]
        for scenario in alone:
            _print_transforms(scenario, [_transforms(side, scenario, scratch) for side in sides])
    return 0


def _sides(reference: Reference, scratch: Path) -> tuple[Side, Side]:
    folders = ReferenceFolders(scratch)
    ours = Side(
        "segplan",
        sys.executable,
        "segplan_loading.py",
        neutral_environment(PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1"),
        0,
    )
    theirs = Side(
        "nnU-Net",
        str(reference.python),
        "reference_loading.py",
        folders.environment(OMP_NUM_THREADS="1"),
        1,
    )
    return ours, theirs


def _compare(
    sides: Sequence[Side], scenario: Scenario, scratch: Path, arguments: argparse.Namespace
) -> tuple[Loading, Loading]:
    found = Loading(), Loading()
    for side in sides:
        folder = scratch / side.name / scenario.folder
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            _run(side, "prepare", scenario, folder, 0, 0, scratch)
        warm_file_cache(folder)
    for number in range(arguments.repeats):
        for side in reversed(sides):
            folder = scratch / side.name / scenario.folder
            samples = scenario.samples[side.column] * (2 if arguments.full else 1)
            cost, peak = _run(side, "load", scenario, folder, samples, number, scratch)
            one = found[side.column]
            one.samples_per_s.append(1 / cost["cpu_s"])
            one.peak_mib.append(peak)
            one.own_mib.append(peak - cost["imports_mib"])
    return found


def _transforms(side: Side, scenario: Scenario, scratch: Path) -> dict[str, float]:
    return _run(side, "transforms", scenario, scratch, TRANSFORM_REPEATS, 0, scratch)[0]


def _run(
    side: Side, task: str, scenario: Scenario, folder: Path, samples: int, seed: int, scratch: Path
) -> tuple[dict[str, float], float]:
    result = scratch / "result.json"
    command = [side.python, str(HERE / side.script), task, scenario.name, str(folder), str(samples), str(seed)]
    cost = run_measured([*command, str(result)], scratch / "log", side.environment)
    return json.loads(result.read_text()), cost.peak_mib


def _print_row(scenario: Scenario, found: tuple[Loading, Loading]) -> None:
    ours, theirs = (statistics.median(one.samples_per_s) for one in found)
    print(f"{scenario.name}: {ours:.2f} against {theirs:.2f} samples a core-second", flush=True)


def _print_table(rows: Sequence[tuple[Scenario, tuple[Loading, Loading]]]) -> None:
    print("\n| samples a core-second, median (range) | segplan | nnU-Net 2.8.1 | times as many | goal |")
    print("|---|---|---|---|---|")
    for scenario, (ours, theirs) in rows:
        ratio = statistics.median(ours.samples_per_s) / statistics.median(theirs.samples_per_s)
        goal = "" if scenario.goal is None else f"{scenario.goal:g}: {'met' if ratio >= scenario.goal else 'NOT met'}"
        figures = [median_and_range(one.samples_per_s, 2) for one in (ours, theirs)]
        print(f"| {scenario.name} | {figures[0]} | {figures[1]} | {ratio:.1f} | {goal} |")
    _print_memory("peak memory of the process, MiB", rows, lambda one: one.peak_mib)
    _print_memory("of that beyond what importing took, MiB", rows, lambda one: one.own_mib)


def _print_memory(
    title: str,
    rows: Sequence[tuple[Scenario, tuple[Loading, Loading]]],
    values: Callable[[Loading], Sequence[float]],
) -> None:
    print(f"\n| {title} | segplan | nnU-Net 2.8.1 | ratio | goal |\n|---|---|---|---|---|")
    for scenario, found in rows:
        ours, theirs = (values(one) for one in found)
        ratio = statistics.median(ours) / statistics.median(theirs)
        goal = f"at most {MEMORY_GOAL:g}: {'met' if ratio <= MEMORY_GOAL else 'NOT met'}"
        figures = [median_and_range(one, 0) for one in (ours, theirs)]
        print(f"| {scenario.name} | {figures[0]} | {figures[1]} | {ratio:.2f} | {goal} |")


def _print_transforms(scenario: Scenario, found: Sequence[Mapping[str, float]]) -> None:
    ours, theirs = found
    print(f"\n| one transform, CPU ms, {scenario.name} | segplan | nnU-Net 2.8.1 | times as fast |\n|---|---|---|---|")
    for name in theirs:
        if name in ours:
            print(f"| {name} | {1e3 * ours[name]:.1f} | {1e3 * theirs[name]:.1f} | {theirs[name] / ours[name]:.1f} |")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Patches a second and core: segplan against nnU-Net 2.8.1.")
    add_reference_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--only", help="only the scenarios with this in their name, e.g. '105 classes'")
    parser.add_argument(
        "--full", action="store_true", help="twice the samples, and single transforms of every scenario"
    )
    parser.add_argument("--scratch", type=Path, help="where the synthetic cases go for the time (about 2 GB)")
    return run_benchmark(body, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
