"""The Lightning predict loop: the next case is read and preprocessed while the network works on this one."""

import logging
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from segplan.dataset import Case
from segplan.errors import StorageError
from segplan.imaging import Geometry, read_image
from segplan.inference.export import logits_to_labels, logits_to_probabilities
from segplan.inference.predictor import Predictor
from segplan.inference.tiled import sliding_window
from segplan.preprocessing import PreprocessedCase


@dataclass(frozen=True)
class LoadedCase:
    """A case on the network's grid, or why it could not be read."""

    case: Case
    data: PreprocessedCase | None
    error: Exception | None
    seconds: float


@dataclass(frozen=True)
class Segmented:
    """A case's labels in the frame of its file, or why there are none.

    Args:
        case: the case.
        labels: (Z, Y, X).
        geometry: of the input.
        probabilities: (K, Z, Y, X) float32 where they are wanted.
        error: why it failed.
        seconds: per stage: read (with preprocessing), network, export.
    """

    case: Case
    labels: NDArray[np.unsignedinteger] | None = None
    geometry: Geometry | None = None
    probabilities: NDArray[np.float32] | None = None
    error: Exception | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    handle: Callable[[Segmented], None],
    trainer: Mapping[str, Any],
    *,
    probabilities: bool = False,
    read_ahead: int = 1,
) -> None:
    """Segment cases one after the other and hand each to `handle`; a case that fails does not stop the others.

    Args:
        predictor: on the device that `trainer` means.
        cases: those to segment.
        handle: takes every result, in order.
        trainer: arguments of Lightning's Trainer. Its precision must be 32-true: tiles are cast one by one.
        probabilities: compute these too.
        read_ahead: cases that are read while another is segmented; each costs its memory.

    Raises:
        StorageError: nothing can be written any more.
        KeyboardInterrupt: the user stopped it.
    """
    silent: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        loop = pl.Trainer(**silent, enable_model_summary=False, callbacks=[_Handler(handle)], **trainer)
        stream = DataLoader(_CaseStream(cases, predictor, read_ahead), batch_size=None)
        with _interruptible():
            loop.predict(_PredictionModule(predictor, probabilities), stream, return_predictions=False)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Undo what Lightning makes of Ctrl-C: it leaves with code 1, and the signal stays ignored from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            if threading.current_thread() is threading.main_thread():  # no other may set handlers, nor is interrupted
                signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from error
        raise


class _CaseStream(IterableDataset[LoadedCase]):
    """Loads cases in threads: reading, numba and numpy leave the interpreter lock alone, and nothing is pickled."""

    def __init__(self, cases: Sequence[Case], predictor: Predictor, read_ahead: int) -> None:
        self.cases, self.predictor, self.read_ahead = cases, predictor, read_ahead

    def __iter__(self) -> Iterator[LoadedCase]:
        waiting = deque(self.cases)
        pending: deque[Future[LoadedCase]] = deque()
        with ThreadPoolExecutor(self.read_ahead) as pool:
            while waiting or pending:
                while waiting and len(pending) <= self.read_ahead:
                    pending.append(pool.submit(self._load, waiting.popleft()))
                loaded = pending.popleft().result()
                yield loaded

    def _load(self, case: Case) -> LoadedCase:
        start = time.perf_counter()
        data, failure = None, None
        try:
            data = self.predictor.preprocess(read_image(case.images))
        except Exception as error:  # whatever is wrong with one case is told at the end, beside the others' results
            failure = error
        return LoadedCase(case, data, failure, time.perf_counter() - start)


class _PredictionModule(pl.LightningModule):
    def __init__(self, predictor: Predictor, probabilities: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(predictor.networks)  # Lightning moves what it knows
        self.predictor, self.probabilities = predictor, probabilities

    def predict_step(self, batch: LoadedCase, batch_idx: int) -> Segmented:
        seconds = {"read": batch.seconds}
        if batch.data is None:
            return Segmented(batch.case, error=batch.error, seconds=seconds)
        try:
            labels, probabilities = self._segment(batch.data, seconds)
        except StorageError:
            raise
        except Exception as error:
            return Segmented(batch.case, error=error, seconds=seconds)
        geometry = Geometry.from_json(batch.data.properties.geometry)
        return Segmented(batch.case, labels, geometry, probabilities, seconds=seconds)

    def transfer_batch_to_device(self, batch: LoadedCase, device: torch.device, dataloader_idx: int) -> LoadedCase:
        return batch  # tiles are moved, never whole cases

    def _segment(
        self, case: PreprocessedCase, seconds: dict[str, float]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.float32] | None]:
        predictor = self.predictor
        if not self.probabilities:
            return predictor.segment(case, seconds), None
        start = time.perf_counter()
        logits = sliding_window(predictor.networks, case.image, predictor.tiling, predictor.device)
        seconds["network"] = time.perf_counter() - start
        way_back = (case.properties, predictor.plan, predictor.labels)
        result = (
            logits_to_labels(logits, *way_back),
            logits_to_probabilities(logits, *way_back, are_probabilities=predictor.tiling.probabilities),
        )
        seconds["export"] = time.perf_counter() - start - seconds["network"]
        return result


class _Handler(BasePredictionWriter):
    def __init__(self, handle: Callable[[Segmented], None]) -> None:
        interval: Literal["batch"] = "batch"
        super().__init__(write_interval=interval)
        self.handle = handle

    def write_on_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: Any, *_: Any) -> None:
        self.handle(prediction)
