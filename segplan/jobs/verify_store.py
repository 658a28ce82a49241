"""Compare preprocessed data with the checksums that were taken when it was written."""

import functools
import time
from collections.abc import Sequence
from pathlib import Path

from segplan.errors import Problem, SegplanError, StoreError, VerificationError
from segplan.jobs.console import print_problems, progress, seconds
from segplan.planning import read_fingerprint
from segplan.preprocessing import CaseStore, available_cpus, run_parallel
from segplan.preprocessing.store import REMEDY


def run(target: str, workspace: Path, num_workers: int | None = None, *, remove: bool = False) -> int:
    """The job `segplan verify-store`: every damaged or missing file as a table; exit code 2 if there is any.

    Args:
        target: a dataset of the workspace, or a folder: one store, or the stores of a dataset.
        workspace: where the dataset's stores stand.
        num_workers: processes; None: the cores at hand.
        remove: delete the damaged cases' files, so that plan.py makes them anew.

    Raises:
        StoreError: there is no store.
        VerificationError: damage was found, and `remove` was not asked for.
    """
    stores = _stores(target, workspace)
    problems: list[Problem] = []
    for store in stores:
        start = time.perf_counter()
        found = verify_store(store, num_workers or available_cpus())
        damaged = {problem.case for problem in found if problem.fatal}
        spent = seconds(time.perf_counter() - start)
        print(f"{'verify-store':13}{store.folder.name}  {_state(store, damaged)}  {spent}")
        if remove:
            for case in sorted(case for case in damaged if case is not None):
                store.remove(case)
            store.remove_leftovers()
        problems += found
    return _report(problems, stores[0].folder.absolute().parent.name, target, removed=remove)


def verify_store(store: CaseStore, num_workers: int) -> list[Problem]:
    """All that is wrong with a store: damaged and missing files, cases that are missing, remains of killed writers.

    The last are notes, not fatal: they do not count as cases, and plan.py clears them away.
    """
    problems = [_undescribed(case, names) for case, names in store.undescribed().items()]
    identifiers = store.described()
    known = {*identifiers, *store.undescribed()}
    for case in _expected_cases(store):
        if case not in known:
            problems.append(Problem(case, f"the case is not in {store.folder.name}", REMEDY))
    results = run_parallel(functools.partial(_verify_case, store.folder), identifiers, num_workers)
    with progress("verify-store", len(identifiers)) as advance:
        for case, result in results:
            if isinstance(result, SegplanError):
                problems.append(Problem(case, result.what, REMEDY))
            else:
                problems += result
            advance()
    for name in store.leftovers():
        what = f"{name} is of a writer that was killed, or of one at work"
        problems.append(Problem(None, what, "Nothing: plan.py clears it away.", fatal=False))
    return sorted(problems, key=lambda problem: (not problem.fatal, problem.case or ""))


def _verify_case(folder: Path, identifier: str) -> list[Problem]:
    return CaseStore(folder).verify(identifier)


def _undescribed(case: str, names: Sequence[str]) -> Problem:
    return Problem(case, f"the case is incomplete: {', '.join(names)} without {case}.json", REMEDY)


def _expected_cases(store: CaseStore) -> tuple[str, ...]:
    """The dataset's cases as its fingerprint lists them; none where the store stands outside a workspace."""
    dataset = store.folder.absolute().parent
    file = dataset.parent.parent / "fingerprints" / dataset.name / "dataset_fingerprint.json"
    return read_fingerprint(file).case_ids if file.is_file() else ()


def _stores(target: str, workspace: Path) -> list[CaseStore]:
    # The workspace first: the raw dataset of that name may lie in the current folder.
    for place in (workspace / "preprocessed" / target, Path(target).expanduser()):
        if not place.is_dir():
            continue
        stores = [CaseStore(folder) for folder in (place, *sorted(place.iterdir())) if folder.is_dir()]
        filled = [store for store in stores if store.holds_cases()]
        if filled:
            return filled
    known = sorted(path.name for path in (workspace / "preprocessed").glob("*"))
    more = f" Preprocessed in {workspace}: {', '.join(known)}." if known else ""
    raise StoreError(
        "no preprocessed cases are there", target, f"Name a dataset of the workspace, or a folder of cases.{more}"
    )


def _state(store: CaseStore, damaged: set[str | None]) -> str:
    cases = f"{len(store.described())} cases"
    return f"{cases}, {len(damaged)} damaged or missing" if damaged else f"{cases} ok"


def _report(problems: Sequence[Problem], dataset: str, target: str, *, removed: bool) -> int:
    again = f"python plan.py dataset={dataset} stages=[preprocess]"
    if not any(problem.fatal for problem in problems):
        print_problems(problems)
        return 0
    if removed:
        print_problems(problems)
        print(f"The damaged cases are removed. Next: {again}")
        return 0
    error = VerificationError(problems, where=target)
    error.remedy = f"segplan verify-store {target} --remove takes the damaged cases out, then {again} makes them anew."
    raise error
