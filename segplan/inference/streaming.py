"""One case from the network's grid to the frame of its file, in memory that does not grow with its length or classes.

Tiles run in order along the first axis; finished slabs of logits go to the export at once, in a thread beside the
network where that is worth it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segplan.dataset import Labels
from segplan.inference.case_export import CaseExport, original_box, original_shape
from segplan.inference.fast_export import FastExport
from segplan.inference.forward import Network
from segplan.inference.probabilities import ProbabilityWriter
from segplan.inference.tile_input import LabelledImage
from segplan.inference.tiled import stream_logits
from segplan.inference.tiling import Tiling
from segplan.preprocessing import CaseProperties, PreprocessingPlan

T = TypeVar("T")

_WAITING_SLABS = 2


class CaseOnGrid(Protocol):
    """A `PreprocessedCase` or `StoredCase`."""

    @property
    def image(self) -> NDArray[np.float32]:
        """(C, Z, Y, X) in the network frame."""

    @property
    def labels(self) -> NDArray[np.integer] | None:
        """(Z, Y, X) there."""

    @property
    def properties(self) -> CaseProperties:
        """The way back."""


@dataclass(frozen=True)
class StreamedCase:
    """What became of a case.

    Args:
        labels: (Z, Y, X) in the frame of the file.
        entropy: nats, (Z, Y, X) float32 there, if it was asked for; of regions the sum over them.
        seconds: spent in `network`, and in `export` beyond that.
        notes: lines for the user about choices made for want of memory, and skipped tiles.
    """

    labels: NDArray[np.unsignedinteger]
    entropy: NDArray[np.float32] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def segment_case(
    networks: Network | Sequence[Network],
    case: CaseOnGrid,
    plan: PreprocessingPlan,
    labels: Labels,
    tiling: Tiling,
    *,
    device: torch.device | str = "cpu",
    probabilities: ProbabilityWriter | None = None,
    entropy: bool = False,
    label_channels: int = 0,
    overlap: bool | None = None,
    watch: Callable[[Iterator[Tensor]], Iterator[Tensor]] | None = None,
) -> StreamedCase:
    """Segment a case.

    Args:
        networks: in evaluation mode, on `device`; several (folds) are averaged, in one pass over the tiles.
        case: on the network's grid.
        plan: the plan that it was preprocessed by.
        labels: what the K channels stand for.
        tiling: see `make_tiling`.
        device: where the networks are.
        probabilities: an open store to write them to, as `open_probabilities` makes it.
        entropy: make a map of it.
        label_channels: of a cascade: the case's labels 1 … `label_channels` become as many further input channels.
        overlap: export in a thread beside the network; None: if that is on a CUDA device. (Apple's does not take
            operations of two threads at once.)
        watch: passes on the slabs of logits that it is given, (K, depth, Y, X) each, and may look at them.

    Raises:
        ModelError: the network gives values that are not finite.
        StorageError: there is no space for what does not fit the memory, or for the probabilities.
        ValueError: the tiling is `fast`, which gives labels only, and probabilities or entropy are asked for.
    """
    target = torch.device(device)
    image = case.image
    source = image if not label_channels or case.labels is None else LabelledImage(image, case.labels, label_channels)
    notes: list[str] = []
    export: CaseExport | FastExport
    if not tiling.fast:
        how: dict[str, Any] = {"entropy": entropy, "probabilities": probabilities, "notes": notes}
        how |= {"are_probabilities": tiling.probabilities, "device": None if tiling.export_on_host else target}
        export = CaseExport(case.properties, plan, labels, **how)
    elif probabilities is None and not entropy:
        export = FastExport(case.properties, plan, labels)
    else:
        raise ValueError("fast inference gives labels, neither probabilities nor entropy")
    seconds = {"network": 0.0, "export": 0.0}
    start = time.perf_counter()
    slabs = _timed(stream_logits(networks, source, tiling, target, notes), seconds)
    if watch is not None:
        slabs = watch(slabs)
    if target.type == "cuda" if overlap is None else overlap:
        _beside(slabs, export.add)
    else:
        for slab in slabs:
            export.add(slab)
    result = export.labels
    seconds["export"] = time.perf_counter() - start - seconds["network"]
    return StreamedCase(result, export.entropy, seconds, tuple(notes))


def open_probabilities(
    folder: Path,
    properties: CaseProperties,
    labels: Labels,
    *,
    dtype: str = "float16",
    about: Mapping[str, Any] | None = None,
) -> ProbabilityWriter:
    """The store for the probabilities of a case, to be entered by `with` and handed to `segment_case`.

    Args:
        folder: CASE.probabilities.
        properties: of the preprocessed case.
        labels: what the channels stand for.
        dtype: "float16" or "float32".
        about: see `ProbabilityWriter`.
    """
    return ProbabilityWriter(
        folder,
        labels.num_heads,
        original_shape(properties),
        kind="sigmoid" if labels.has_regions else "softmax",
        dtype=dtype,
        box=original_box(properties),
        about=about,
    )


def _beside(slabs: Iterable[Tensor], work: Callable[[Tensor], None]) -> None:
    """Hand the slabs to `work` one after the other in a thread, while the next are made here.

    Whatever either side raises is raised here, when the other has ended: no queue, so nothing can wait for ever.
    """
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as executor:
        try:
            for slab in slabs:
                pending.append(executor.submit(work, slab))
                if len(pending) >= _WAITING_SLABS:
                    pending.popleft().result()
            while pending:
                pending.popleft().result()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _timed(slabs: Iterator[Tensor], seconds: dict[str, float]) -> Iterator[Tensor]:
    while True:
        start = time.perf_counter()
        slab = next(slabs, None)
        seconds["network"] += time.perf_counter() - start
        if slab is None:
            return
        yield slab
