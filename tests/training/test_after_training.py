"""Two real processes that share work after a training, of which one fails, ends, or cannot be told as it is."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
from torch import distributed

from segplan.errors import RunError, StorageError, VerificationError
from segplan.training.after_training import Ranks, ToldByFirstRankError


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")
        self.function = lambda: first


def work_of(kind: str, rank: int):
    def culprit():
        failures = {
            "full disk": StorageError("the disk is full", "/data", "Make room."),
            "unpicklable": Unpicklable(1, 2),
            "defect": IndexError("list index out of range"),
            "problems": VerificationError([]),
        }
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise failures[kind]

    return culprit if rank == 1 else (lambda: "done")


def share(rank: int, port: Path, kind: str, culprit: int, told) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{port}", rank=rank, world_size=2)
    ranks = Ranks.joined()
    assert ranks.gather(10 * rank) == [0, 10]
    assert ranks.do(lambda: f"own {rank}") == f"own {rank}"
    try:
        ranks.do(work_of(kind, int(rank == culprit)))
    except BaseException as error:
        line = error.__traceback__
        names = []
        while line is not None:
            names.append(line.tb_frame.f_code.co_name)
            line = line.tb_next
        told.put((rank, type(error).__name__, str(error), "culprit" in names))


@pytest.mark.skipif(sys.platform == "win32", reason="gloo and signals")
@pytest.mark.parametrize("culprit", [0, 1])
@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("full disk", "StorageError", "the disk is full"),
        ("unpicklable", None, "1 2"),
        ("defect", None, "list index out of range"),
        ("problems", None, "verification found"),
        ("killed", "RunError", "another process of the training has ended"),
    ],
)
def test_what_fails_on_one_rank_is_told_by_the_first_one_and_ends_the_other(tmp_path, kind, name, text, culprit):
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    processes = [context.Process(target=share, args=(rank, tmp_path / "port", kind, culprit, told)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert not process.is_alive()
    outcomes = {}
    while not told.empty():
        rank, *outcome = told.get()
        outcomes[rank] = outcome
    if not (kind == "killed" and culprit == 0):
        found, message, with_traceback = outcomes[0]
        assert text in message
        assert name is None or found == name
        if culprit == 0:
            assert with_traceback  # the exception itself, not a copy
        elif name is None:
            assert found == "RuntimeError"
            assert "process 1" in message
            assert "in culprit" in message
    if not (kind == "killed" and culprit == 1):
        assert outcomes[1][0] == "ToldByFirstRankError"


def test_one_process_alone_raises_what_happens_as_it_is():
    def fails():
        raise RunError("no")

    with pytest.raises(RunError, match="no"):
        Ranks.joined().do(fails)
    assert Ranks().gather(3) == [3]
    assert not issubclass(ToldByFirstRankError, RunError)
