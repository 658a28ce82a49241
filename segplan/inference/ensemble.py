"""Several models that segment together: their probabilities are averaged on the image's own grid, slab by slab.

The models may work on different grids and cut in different directions, so each streams its probabilities into a
temporary store on disk; the mean is taken from those. Memory holds one model's slabs, whatever their number.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segplan.dataset import Labels
from segplan.imaging import Geometry, Image, read_image
from segplan.imaging.storage import temporary_name
from segplan.inference.averaging import average_stores
from segplan.inference.image_kinds import segment_as_given
from segplan.inference.predictor import Predictor, postprocessed
from segplan.inference.probabilities import SUFFIX, ProbabilityStore, ProbabilityWriter
from segplan.inference.streaming import StreamedCase
from segplan.model_ensemble import ModelEnsemble
from segplan.preprocessing import PreprocessedCase


@dataclass(frozen=True)
class EnsemblePredictor:
    """Loaded models whose probabilities are averaged, each counting the same; used as a `Predictor` is.

    Args:
        members: at least one; all with the same labels and channels.
        postprocessing: steps that `predict` applies to label maps.
        scratch: where temporary probabilities go: K × 2 bytes a voxel and model before compression; None: the system's
            own place.
    """

    members: tuple[Predictor, ...]
    postprocessing: tuple[Mapping[str, Any], ...] = ()
    scratch: Path | None = None

    @classmethod
    def from_model(
        cls,
        path: Path | str | ModelEnsemble,
        *,
        device: str | torch.device = "auto",
        precision: str | int = "auto",
        network_target: str | None = None,
        postprocess: bool = True,
        first_stage: bool = True,
        scratch: Path | None = None,
        **settings: Any,
    ) -> "EnsemblePredictor":
        """Load an ensemble's zip or folder (or a single model's); other arguments as of `Predictor.from_model`.

        Raises:
            ModelError: it is none, or incomplete.
            ConfigError: a setting cannot work.
        """
        ensemble = path if isinstance(path, ModelEnsemble) else ModelEnsemble.open(path)
        how: dict[str, Any] = {"device": device, "precision": precision, "network_target": network_target, **settings}
        members = tuple(
            Predictor.from_model(
                each.model, each.folds, checkpoint=each.checkpoint, postprocess=False, first_stage=first_stage, **how
            )
            for each in ensemble.members
        )
        return cls(members, ensemble.postprocessing if postprocess else (), scratch)

    def predict(self, image: Any, spacing: Sequence[float] | None = None, *, output: Path | str | None = None) -> Any:
        """Segment an image; see `Predictor.predict`."""
        return segment_as_given(self.segment_image, image, spacing, output)

    def predict_files(self, paths: Sequence[Path | str]) -> tuple[NDArray[np.unsignedinteger], Geometry]:
        """Segment the case whose channel files are `paths`; returns labels (Z, Y, X) and the files' geometry."""
        image = read_image([Path(path) for path in paths])
        return self.segment_image(image), image.geometry

    def segment_image(self, image: Image) -> NDArray[np.unsignedinteger]:
        """Labels (Z, Y, X) of an image in its own frame, postprocessed."""
        return postprocessed(self.segment_case(self.prepare(image)).labels, image.spacing, self.postprocessing)

    def prepare(self, image: Image, earlier: NDArray[np.integer] | None = None) -> tuple[PreprocessedCase, ...]:
        """The image on the grid of each member; `earlier` as of `Predictor.prepare`, for members that are cascades."""
        return tuple(each.prepare(image, earlier if each.is_cascade else None) for each in self.members)

    def segment_case(
        self,
        case: Sequence[PreprocessedCase],
        *,
        store: Path | None = None,
        about: Mapping[str, Any] | None = None,
        entropy: bool = False,
    ) -> StreamedCase:
        """Segment a prepared case; arguments as of `Predictor.segment_case`."""
        seconds: dict[str, float] = {}
        notes: dict[str, None] = {}
        with _temporary_folder(self.scratch) as folder:
            stores = []
            for number, (member, own) in enumerate(zip(self.members, case, strict=True)):
                place = folder / f"{number}{SUFFIX}"
                result = member.segment_case(own, store=place)
                stores.append(ProbabilityStore.open(place))
                notes.update(dict.fromkeys(result.notes))
                for stage, value in result.seconds.items():
                    seconds[stage] = seconds.get(stage, 0.0) + value
            start = time.perf_counter()
            if store is None:
                labels, uncertain = average_stores(stores, self.labels, entropy=entropy)
            else:
                first = stores[0]
                with ProbabilityWriter(store, first.channels, first.shape, kind=first.kind, about=about) as writer:
                    labels, uncertain = average_stores(stores, self.labels, writer=writer, entropy=entropy)
            seconds["average"] = time.perf_counter() - start
        return StreamedCase(labels=labels, entropy=uncertain, seconds=seconds, notes=tuple(notes))

    @property
    def alone(self) -> Predictor | None:
        """The member where there is but one, which then needs no averaging; None of several."""
        return replace(self.members[0], postprocessing=self.postprocessing) if len(self.members) == 1 else None

    @property
    def labels(self) -> Labels:
        """What the members' channels stand for."""
        return self.members[0].labels

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Those of all members."""
        return tuple(network for member in self.members for network in member.networks)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.members[0].device


@contextmanager
def _temporary_folder(parent: Path | None) -> Iterator[Path]:
    if parent is None:
        with tempfile.TemporaryDirectory(prefix="segplan-ensemble-") as folder:
            yield Path(folder)
        return
    place = parent / temporary_name("members")
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
