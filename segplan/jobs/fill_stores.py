"""Preprocess a dataset's cases for its planned configurations; those that make the same arrays share a store."""

import functools
import hashlib
import importlib
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from segplan.dataset import Case, Labels
from segplan.errors import Problem, SegplanError, StorageError, VerificationError
from segplan.jobs.console import progress, seconds
from segplan.jobs.inspection import hash_of_case
from segplan.jobs.plan_node import labels_of, preprocessing_of, store_folder
from segplan.preprocessing import (
    CaseStore,
    PreprocessingPlan,
    case_size,
    describe_bytes,
    location_keys,
    preprocess_to_store,
    run_parallel,
    usable_memory,
)

PlanNode = dict[str, Any]

_KERNELS = "segplan.preprocessing.kernels"


def preprocess_all(
    raw: Path,
    cases: Sequence[Case],
    nodes: Mapping[str, PlanNode],
    workspace: Path,
    num_workers: int,
    *,
    memory: int | None = None,
    spacings: Iterable[Sequence[float]] = (),
    force: bool = False,
) -> None:
    """Put `cases` into the store of each configuration in `nodes`, unless they are there and unchanged.

    Args:
        raw: the dataset's folder, for messages.
        cases: with label maps.
        nodes: configuration name -> its `plan` node.
        workspace: where the stores stand.
        num_workers: processes; 0 or 1: this one.
        memory: bytes that all workers together may take; None: most of what is free. Only so many cases are worked on
            at once, the largest first; one that alone needs more is worked on alone.
        spacings: those that occur, in mm (z, y, x); where one differs from the plan's, the resampling kernels are
            loaded once before the workers start.
        force: preprocess again what is there.

    Raises:
        VerificationError: some cases failed; the others are done.
    """
    failures: dict[str, SegplanError] = {}
    for folder, names in _stores(nodes, workspace).items():
        start = time.perf_counter()
        labels, store = labels_of(nodes[names[0]]), CaseStore(folder)
        store.remove_leftovers()
        missing = [case for case in cases if force or not store.has(case.identifier, _source_hash(case, labels))]
        failed = (
            _fill(folder, missing, nodes[names[0]], num_workers, memory=memory, spacings=spacings) if missing else {}
        )
        failures |= failed
        spent = seconds(time.perf_counter() - start) if missing else "done before"
        print(f"{'preprocess':13}{', '.join(names)}  {len(cases) - len(failed)}/{len(cases)}  {spent}")
    if failures:
        problems = [Problem(case, _text(error), error.remedy or "") for case, error in failures.items()]
        raised = VerificationError(problems, where=raw)
        raised.exit_code = min(error.exit_code for error in failures.values())
        raise raised


def drop_other_cases(cases: Sequence[Case], nodes: Mapping[str, PlanNode], workspace: Path) -> None:
    """Remove from the stores what is no case of the dataset any more."""
    known = {case.identifier for case in cases}
    for folder in _stores(nodes, workspace):
        store = CaseStore(folder)
        for stale in {*store.described(), *store.undescribed()} - known:
            store.remove(stale)


def _stores(nodes: Mapping[str, PlanNode], workspace: Path) -> dict[Path, list[str]]:
    stores: dict[Path, list[str]] = {}
    for name, node in nodes.items():
        stores.setdefault(store_folder(workspace, node), []).append(name)
    return stores


def _fill(
    folder: Path,
    cases: Sequence[Case],
    node: PlanNode,
    num_workers: int,
    *,
    memory: int | None,
    spacings: Iterable[Sequence[float]],
) -> dict[str, SegplanError]:
    """Preprocess `cases` into `folder`; returns what failed, by case.

    Raises:
        StorageError: the disk is full or the folder cannot be written; no further case is tried then.
    """
    plan = preprocessing_of(node)
    preload = ["SimpleITK"]
    if any(_is_resampled((z, y, x), plan) for z, y, x in spacings):
        preload.append(_KERNELS)
        _load_kernels()
    costs = [case_size(case).peak_bytes(plan) for case in cases]
    budget = usable_memory() if memory is None else memory
    _print_choice(cases, costs, num_workers, budget, given=memory is not None)
    work = functools.partial(_store_case, labels=labels_of(node), plan=plan, folder=folder)
    # Workers start here, before the progress bar's thread does.
    finished = run_parallel(work, cases, num_workers, _identifier, preload=preload, costs=costs, budget=budget)
    failed = {}
    with closing(finished), progress("preprocess", len(cases)) as advance:
        for case, result in finished:
            if isinstance(result, StorageError):
                raise result
            if isinstance(result, SegplanError):
                failed[case.identifier] = result
            advance()
    return failed


def _load_kernels() -> None:
    """Import the resampling kernels before the workers do; the first time on a machine they are compiled."""
    start = time.perf_counter()
    kernels = importlib.import_module(_KERNELS)
    if kernels.were_compiled():
        print(f"{'preprocess':13}resampling compiled for this machine, once  {seconds(time.perf_counter() - start)}")


def _print_choice(cases: Sequence[Case], costs: Sequence[int], num_workers: int, budget: int, *, given: bool) -> None:
    """Say how many cases are worked on at once and why, and which case is too large for its memory."""
    largest = max(costs)
    workers = min(max(1, num_workers), len(cases))
    # As many as the budget surely holds; where cases differ in size, more of the small ones run together.
    surely = max(1, min(workers, int(budget // largest)))
    most = max(1, min(workers, sum(total <= budget for total in itertools.accumulate(sorted(costs)))))
    limit = "memory_gb" if given else "free memory"
    why = f"{limit} {describe_bytes(budget)}, the largest case needs {describe_bytes(largest)}"
    at_once = f"{most}" if surely == most else f"{surely} to {most}"
    print(f"{'preprocess':13}{at_once} case{'s' if most > 1 else ''} at once: num_workers {num_workers}, {why}")
    for case, cost in zip(cases, costs, strict=True):
        if cost > budget:
            what = f"needs about {describe_bytes(cost)}, more than the {describe_bytes(budget)} of {limit}"
            print(f"note: {case.identifier} {what}: it is worked on alone and may fail")


def _is_resampled(spacing: tuple[float, float, float], plan: PreprocessingPlan) -> bool:
    return plan.target_spacing(spacing) != tuple(spacing[axis] for axis in plan.transpose)


def _store_case(case: Case, labels: Labels, plan: PreprocessingPlan, folder: Path) -> None:
    preprocess_to_store(case, labels, plan, folder, _source_hash(case, labels))


def _source_hash(case: Case, labels: Labels) -> str:
    """Changes with the case's files and with the classes whose voxels are listed for oversampling."""
    keys = " ".join(location_keys(labels))
    if labels.indexed is not labels:  # which value has become which index
        keys += f" {labels.all_labels} {labels.ignore}"
    return hashlib.blake2b(f"{hash_of_case(case)} {keys}".encode(), digest_size=8).hexdigest()


def _text(error: SegplanError) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what


def _identifier(case: Case) -> str:
    return case.identifier
