"""The Lightning predict loop: cases are read, segmented and written side by side, each step by a thread of its own.

The next case is read and preprocessed while the network works on this one and the last one is written. Nothing is
pickled; at most `read_ahead` cases wait for the network and one for the writer.
"""

import logging
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from numpy.typing import NDArray
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from segplan.dataset import Case
from segplan.errors import ImageError, StorageError
from segplan.imaging import Geometry, Image, read_image, read_label_map
from segplan.imaging.image import corner_shift
from segplan.inference.ensemble import EnsemblePredictor
from segplan.inference.predictor import Predictor, postprocessed
from segplan.inference.probabilities import SUFFIX

_LARGEST_SHIFT = 0.5  # voxels between an image and its label map of the previous stage


@dataclass(frozen=True)
class Wanted:
    """What is made of each case beside its label map.

    Args:
        stores: folder for the probabilities, in CASE.probabilities; None: none.
        entropy: of each voxel's probabilities.
        previous_stage: of each case the label map of a cascade's first stage; None: the cascade runs it itself.
        read_ahead: cases that are read while another is segmented; each costs its memory.
    """

    stores: Path | None = None
    entropy: bool = False
    previous_stage: Callable[[Case], Path] | None = None
    read_ahead: int = 1


@dataclass(frozen=True)
class LoadedCase:
    """A case on the network's grid (of an ensemble, on each network's), or why it could not be read."""

    case: Case
    data: Any
    geometry: Geometry | None
    spacing: tuple[float, float, float]
    error: Exception | None
    seconds: float


@dataclass(frozen=True)
class Segmented:
    """A case's labels in the frame of its file, or why there are none.

    Args:
        case: the case.
        labels: (Z, Y, X), postprocessed.
        geometry: of the input.
        store: folder with the probabilities where they are wanted.
        entropy: (Z, Y, X) float32 where it is wanted.
        error: why it failed.
        seconds: per stage: read (with preprocessing), network, export ...
        notes: what the user should know of how it was made.
    """

    case: Case
    labels: NDArray[np.unsignedinteger] | None = None
    geometry: Geometry | None = None
    store: Path | None = None
    entropy: NDArray[np.float32] | None = None
    error: Exception | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def predict_cases(
    predictor: Predictor | EnsemblePredictor,
    cases: Sequence[Case],
    handle: Callable[[Segmented], None],
    trainer: Mapping[str, Any],
    wanted: Wanted = Wanted(),
) -> None:
    """Segment cases one after the other and hand each to `handle`; a case that fails does not stop the others.

    Args:
        predictor: on the device that `trainer` means.
        cases: those to segment.
        handle: takes every result, in order, one at a time, in a thread of its own.
        trainer: arguments of Lightning's Trainer. Its precision must be 32-true: tiles are cast one by one.
        wanted: what is made beside the labels.

    Raises:
        StorageError: nothing can be written any more.
        KeyboardInterrupt: the user stopped it.
    """
    silent: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    with warnings.catch_warnings(), _Writing(handle) as writing:
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        # Each process has its own cases: whatever launched it together with others is none of Lightning's business.
        silent |= {"enable_model_summary": False, "plugins": [LightningEnvironment()]}
        loop = pl.Trainer(**silent, callbacks=[_Handler(writing.add)], **trainer)
        stream = DataLoader(_CaseStream(cases, predictor, wanted), batch_size=None)
        with _interruptible():
            loop.predict(_PredictionModule(predictor, wanted), stream, return_predictions=False)
        writing.finish()


class _Writing:
    """Hands results to the writer's thread; the loop waits where one is still unwritten when the next but one comes."""

    def __init__(self, handle: Callable[[Segmented], None]) -> None:
        self.handle, self.failed = handle, False
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.pending: deque[Future[None]] = deque()

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def add(self, result: Segmented) -> None:
        """Write `result` soon; raises what an earlier writing raised."""
        self._await(1)
        self.pending.append(self.pool.submit(self._write, result))

    def finish(self) -> None:
        """Wait until all is written; raises what the writing raised."""
        self._await(0)

    def _write(self, result: Segmented) -> None:
        if self.failed:  # the loop is about to end: what waited behind the failure is made by the next run
            return
        try:
            self.handle(result)
        except BaseException:
            self.failed = True
            raise

    def _await(self, left: int) -> None:
        while len(self.pending) > left or (self.pending and self.pending[0].done()):
            self.pending.popleft().result()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Undo what Lightning makes of signals: SIGTERM is ignored; Ctrl-C leaves with 1, and is ignored from then on."""
    handler, in_main = signal.getsignal(signal.SIGINT), threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    leaves = in_main and before is signal.SIG_DFL
    if leaves:  # Lightning calls handlers that it finds
        signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            if in_main:  # no other may set handlers, nor is interrupted
                signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from error
        raise
    finally:
        if leaves:
            signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("segplan: stopped by SIGTERM; the same command goes on from here\n")
    raise SystemExit(128 + number)


class _CaseStream(IterableDataset[LoadedCase]):
    """Loads cases in threads: reading, numba and numpy leave the interpreter lock alone, and nothing is pickled."""

    def __init__(self, cases: Sequence[Case], predictor: Predictor | EnsemblePredictor, wanted: Wanted) -> None:
        self.cases, self.predictor, self.wanted = cases, predictor, wanted

    def __len__(self) -> int:
        return len(self.cases)  # else Lightning waits for the case after before it begins one, and holds both

    def __iter__(self) -> Iterator[LoadedCase]:
        waiting = deque(self.cases)
        pending: deque[Future[LoadedCase]] = deque()
        pool = ThreadPoolExecutor(self.wanted.read_ahead, thread_name_prefix="read")
        try:
            while waiting or pending:
                while waiting and len(pending) <= self.wanted.read_ahead:
                    pending.append(pool.submit(self._load, waiting.popleft()))
                loaded = pending.popleft().result()
                yield loaded
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, case: Case) -> LoadedCase:
        start = time.perf_counter()
        data, geometry, spacing, failure = None, None, (1.0, 1.0, 1.0), None
        try:
            image = read_image(case.images)
            geometry, spacing = image.geometry, image.spacing
            earlier = None if self.wanted.previous_stage is None else _earlier(self.wanted.previous_stage(case), image)
            data = self.predictor.prepare(image, earlier)
        except Exception as error:  # whatever is wrong with one case is told at the end, beside the others' results
            failure = error
        return LoadedCase(case, data, geometry, spacing, failure, time.perf_counter() - start)


def _earlier(path: Path, image: Image) -> NDArray[np.integer]:
    label_map = read_label_map(path)
    size = image.array.shape[1:]
    extents = tuple(reversed(size))
    if label_map.array.shape[1:] != size or corner_shift(image.geometry, label_map.geometry, extents) > _LARGEST_SHIFT:
        remedy = "Predict the previous stage of this very image."
        raise ImageError("the previous stage's label map is not in the image's geometry", path, remedy)
    labels: NDArray[np.integer] = label_map.array[0]
    return labels


class _PredictionModule(pl.LightningModule):
    def __init__(self, predictor: Predictor | EnsemblePredictor, wanted: Wanted) -> None:
        super().__init__()
        self.networks = nn.ModuleList(predictor.networks)  # Lightning moves what it knows
        self.predictor, self.wanted = predictor, wanted

    def predict_step(self, batch: LoadedCase, batch_idx: int) -> Segmented:
        seconds = {"read": batch.seconds}
        if batch.data is None or batch.geometry is None:
            return Segmented(batch.case, error=batch.error, seconds=seconds)
        try:
            return self._segment(batch, batch.geometry, seconds)
        except StorageError:
            raise
        except Exception as error:
            return Segmented(batch.case, error=error, seconds=seconds)

    def transfer_batch_to_device(self, batch: LoadedCase, device: torch.device, dataloader_idx: int) -> LoadedCase:
        return batch  # tiles are moved, never whole cases

    def _segment(self, batch: LoadedCase, geometry: Geometry, seconds: dict[str, float]) -> Segmented:
        name = batch.case.identifier
        store = None if self.wanted.stores is None else self.wanted.stores / f"{name}{SUFFIX}"
        about = {"case": name, "geometry": geometry.to_json()}
        result = self.predictor.segment_case(batch.data, store=store, about=about, entropy=self.wanted.entropy)
        start = time.perf_counter()
        labels = postprocessed(result.labels, batch.spacing, self.predictor.postprocessing)
        seconds |= result.seconds
        if self.predictor.postprocessing:
            seconds["postprocess"] = time.perf_counter() - start
        return Segmented(batch.case, labels, geometry, store, result.entropy, None, seconds, tuple(result.notes))


class _Handler(BasePredictionWriter):
    def __init__(self, handle: Callable[[Segmented], None]) -> None:
        interval: Literal["batch"] = "batch"
        super().__init__(write_interval=interval)
        self.handle = handle

    def write_on_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: Any, *_: Any) -> None:
        self.handle(prediction)
