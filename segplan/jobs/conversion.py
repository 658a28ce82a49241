"""What the converting jobs share: run over all cases in worker processes, say what failed, name the next step."""

import functools
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from segplan.dataset.conversion import CaseSource, begin, convert_case, finish
from segplan.errors import Problem, SegplanError, StorageError, VerificationError
from segplan.jobs.console import progress, seconds
from segplan.preprocessing import available_cpus, run_parallel


def convert(
    out: Path,
    origin: Mapping[str, Any],
    cases: Sequence[CaseSource],
    description: Mapping[str, Any],
    *,
    renumbering: Mapping[int, int] | None = None,
    num_workers: int | None = None,
) -> int:
    """Convert all cases that are not there yet, then write dataset.json; returns the exit code, 0.

    Args:
        out: the new dataset's folder.
        origin: command, source and options; another one in the same folder is refused.
        cases: all of them.
        description: the content of dataset.json.
        renumbering: new value of each label value; None: label maps stay as they are.
        num_workers: processes; None: the cores at hand.

    Raises:
        DatasetError: the folder holds something else.
        VerificationError: cases that failed; the others are done.
        StorageError: the folder cannot be written.
    """
    start = time.perf_counter()
    left = begin(out, origin, cases)
    if not left and (out / "dataset.json").is_file():
        print(f"{out}: {len(cases)} cases, nothing left to do")
        return 0
    work = functools.partial(convert_case, out=out, renumbering=renumbering)
    results = run_over(work, left, "convert", num_workers)
    failed = [(name, result) for name, result in results.items() if isinstance(result, SegplanError)]
    if failed:
        problems = [Problem(name, error.what, error.remedy or "Mend or replace the file.") for name, error in failed]
        raise VerificationError(problems, out)
    finish(out, description)
    before = f" ({len(cases) - len(left)} done before)" if len(left) < len(cases) else ""
    training = sum(not case.test for case in cases)
    test = f" and {len(cases) - training} test cases" if training < len(cases) else ""
    print(f"{out}: {training} training{test}{before}  {seconds(time.perf_counter() - start)}")
    print(f"Next: python plan.py {shlex.quote(f'dataset={out}')}")
    return 0


def run_over(work: Any, cases: Sequence[CaseSource], stage: str, num_workers: int | None) -> dict[str, Any]:
    """The result of `work` for every case by its key; an error where it failed.

    Raises:
        StorageError: the disk is full; no further case is tried then.
    """
    results = {}
    finished = run_parallel(work, cases, available_cpus() if num_workers is None else num_workers, _key)
    with closing(finished), progress(stage, len(cases)) as advance:
        for case, result in finished:
            if isinstance(result, StorageError):
                raise result
            results[case.key] = result
            advance()
    return results


def _key(case: CaseSource) -> str:
    return case.key
