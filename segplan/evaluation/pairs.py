"""Predictions beside their references, in whatever form each lies on disk, and the scores of a set of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segplan.errors import ImageError
from segplan.evaluation.folder import run_cases
from segplan.evaluation.metrics import LabelArray, Targets, case_metrics
from segplan.evaluation.postprocessing import Step, apply_postprocessing
from segplan.evaluation.spatial_metrics import MetricSettings, spatial_metrics
from segplan.evaluation.summary import CaseResult, summarize
from segplan.imaging import read_label_map
from segplan.preprocessing import StoredCase

LABELS_ENDING = "_labels.npz"
"""Of label maps that were written where no image writer was installed; key `labels`."""

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class CasePair:
    """A case's predicted label map, and its reference: a file, or a case of a store that kept the untouched one."""

    identifier: str
    prediction: Path
    reference: Path | StoredCase

    def read(self) -> tuple[LabelArray, LabelArray, Spacing]:
        """Prediction and reference (Z, Y, X), and the reference's spacing (Z, Y, X) in mm.

        Raises:
            ImageError: one cannot be read, or they differ in shape.
        """
        prediction = self.read_prediction()
        if isinstance(self.reference, StoredCase):
            reference, spacing = self.reference.reference(), self.reference.properties.spacing
        else:
            image = read_label_map(self.reference)
            reference, spacing = image.array[0], image.spacing
        if prediction.shape != reference.shape:
            sizes = ["×".join(map(str, labels.shape)) for labels in (prediction, reference)]
            what = f"the prediction of {self.identifier} has {sizes[0]} voxels (z×y×x), the reference {sizes[1]}"
            raise ImageError(what, self.prediction, "Remove it: segplan select makes it again.")
        return prediction, reference, spacing

    def read_prediction(self) -> LabelArray:
        """The predicted label map (Z, Y, X)."""
        return read_labels(self.prediction)

    @property
    def reference_name(self) -> str:
        """What summary.json calls the reference."""
        if isinstance(self.reference, StoredCase):
            return f"{self.reference.folder}: reference of {self.identifier}"
        return str(self.reference)


def read_labels(path: Path) -> LabelArray:
    """A label map (Z, Y, X): an image, or CASE_labels.npz.

    Raises:
        ImageError: it cannot be read.
    """
    if path.name.endswith(LABELS_ENDING):
        with np.load(path) as content:
            stored: LabelArray = content["labels"]
        return stored
    labels: LabelArray = read_label_map(path).array[0]
    return labels


def score_pairs(
    pairs: Sequence[CasePair],
    targets: Targets,
    *,
    settings: MetricSettings | None = None,
    steps: Sequence[Step] = (),
    num_workers: int | None = None,
) -> dict[str, Any]:
    """The summary of a set of cases.

    Args:
        pairs: the cases.
        targets: what is evaluated.
        settings: metrics beyond the overlap.
        steps: postprocessing that comes first.
        num_workers: processes; None chooses.

    Raises:
        ImageError: a label map cannot be read.
        WorkerError: a process died.
    """
    return summarize(run_cases(_score, [(pair, targets, settings, tuple(steps)) for pair in pairs], num_workers))


def _score(pair: CasePair, targets: Targets, settings: MetricSettings | None, steps: tuple[Step, ...]) -> CaseResult:
    prediction, reference, spacing = pair.read()
    labels = apply_postprocessing(prediction, spacing, steps)
    metrics = case_metrics(labels, reference, targets)
    if settings is not None and settings.groups:
        spatial = spatial_metrics(labels, reference, spacing, targets, settings)
        metrics = {key: values | spatial[key] for key, values in metrics.items()}
    return CaseResult(metrics, str(pair.prediction), pair.reference_name)
