"""What the converting jobs share: a disk that fills up ends the work, and the workers with it."""

import functools
import multiprocessing
from pathlib import Path

import pytest

from segplan.dataset.conversion import CaseSource
from segplan.errors import StorageError
from segplan.jobs.conversion import run_over


def fill(case, full):
    if case.identifier == full:
        raise StorageError("no space left on the disk", case.identifier, "Free some space")
    return case.identifier


def test_a_full_disk_ends_the_work_and_its_processes_before_the_message():
    cases = [CaseSource(f"case_{number}", (Path("a.png"),), None) for number in range(20)]
    with pytest.raises(StorageError) as caught:
        run_over(functools.partial(fill, full="case_3"), cases, "convert", 2)
    # The traceback is still held here: nothing but the job itself has ended the workers.
    assert caught.value.where == "case_3"
    assert multiprocessing.active_children() == []
