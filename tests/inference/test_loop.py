"""Reading, segmenting and writing run side by side; whatever stage fails, the loop ends and says so."""

import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from segplan.dataset import Case
from segplan.errors import StorageError
from segplan.inference.loop import Wanted, predict_cases
from segplan.inference.streaming import StreamedCase

TRAINER = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
PATIENCE = 60


class FakePredictor:
    """Gives the image itself as labels, and remembers what happened."""

    networks = (torch.nn.Linear(1, 1),)
    device = torch.device("cpu")
    postprocessing = ()

    def __init__(self, fails: int | None = None) -> None:
        self.read, self.segmented, self.fails = 0, threading.Semaphore(0), fails

    def prepare(self, image, earlier):
        self.read += 1
        return image.array[0]

    def segment_case(self, case, **_):
        if self.fails == case.flat[0]:
            raise MemoryError("too large")
        self.segmented.release()
        return StreamedCase(labels=case.astype(np.uint8), seconds={"network": 0.0})


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    found = []
    for number in range(6):
        path = tmp_path / f"c{number}.nii.gz"
        sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8) + number, str(path))
        found.append(Case(f"c{number}", (path,), None))
    return found


def names(results) -> list[str]:
    return [result.case.identifier for result in results]


def test_every_case_is_handed_on_once_and_in_order(cases):
    results = []
    predict_cases(FakePredictor(), cases, results.append, TRAINER)
    assert names(results) == [case.identifier for case in cases]
    assert [int(result.labels.max()) for result in results] == list(range(6))


def test_the_next_case_is_segmented_while_the_last_is_written(cases):
    predictor, overlapped = FakePredictor(), []

    def write(result):
        if result.case.identifier == "c0":  # waits for the second case's segmentation, which must not wait for it
            overlapped.append(all(predictor.segmented.acquire(timeout=PATIENCE) for _ in range(2)))

    predict_cases(predictor, cases, write, TRAINER)
    assert overlapped == [True]


def test_a_slow_writer_holds_up_the_readers(cases):
    predictor, most = FakePredictor(), []
    may_go_on = threading.Event()

    def write(result):
        if result.case.identifier == "c0":
            may_go_on.wait(1.0)  # time enough to read all of it, were nothing in the way
            most.append(predictor.read)

    predict_cases(predictor, cases * 4, write, TRAINER)
    assert most[0] <= 4  # one written, one waiting, one segmented, one read ahead; of 24


@pytest.mark.parametrize("fails", range(6))
def test_a_case_that_fails_leaves_the_others(cases, fails):
    results = []
    predict_cases(FakePredictor(fails), cases, results.append, TRAINER)
    assert len(results) == 6
    assert [isinstance(result.error, MemoryError) for result in results] == [number == fails for number in range(6)]


def test_an_unreadable_case_leaves_the_others(cases):
    cases[2].images[0].write_bytes(b"no image")
    results = []
    predict_cases(FakePredictor(), cases, results.append, TRAINER)
    assert [result.error is not None for result in results] == [False, False, True, False, False, False]


@pytest.mark.parametrize("number", [0, 3, 5])
@pytest.mark.parametrize("error", [StorageError("no space left on the disk"), KeyboardInterrupt()])
def test_a_writer_that_fails_ends_the_loop(cases, number, error):
    written = []

    def write(result):
        if result.case.identifier == f"c{number}":
            raise error
        written.append(result)

    with pytest.raises(type(error)):
        predict_cases(FakePredictor(), cases, write, TRAINER, Wanted(read_ahead=2))
    assert names(written) == [f"c{index}" for index in range(number)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]
