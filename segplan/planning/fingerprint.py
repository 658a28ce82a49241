"""What planning needs to know of a dataset: spacings, sizes, foreground intensities. Streamed, one small record a case.

Every case weighs the same in the intensity statistics, whatever its number of foreground voxels. nnU-Net 2.8.1 gets
there by drawing the same number of voxels from each case with replacement; these are the values that such samples
tend to.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import DatasetError
from segplan.imaging import Box
from segplan.planning.histogram import Histogram, WeightedHistogram, histogram

PICTURE_SPACING = (999.0, 1.0, 1.0)
"""What reading a picture gives: it has no physical size."""

_PIECE = 1 << 20


@dataclass(frozen=True)
class ChannelIntensities:
    """Statistics of one channel's foreground intensities, over all cases; `std` is the population's."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True)
class ChannelRecord:
    """One case's foreground intensities in one channel."""

    histogram: Histogram
    mean: float
    variance: float
    min: float
    max: float


@dataclass(frozen=True)
class CaseFingerprint:
    """One case's contribution: small and picklable. `channels` is empty if the case has no foreground."""

    spacing: tuple[float, float, float]
    shape_after_crop: tuple[int, int, int]
    relative_size: float
    channels: tuple[ChannelRecord, ...]
    identifier: str = ""
    labels: tuple[int, ...] = ()
    """Foreground values of the label map that occur in the case."""


@dataclass(frozen=True)
class Fingerprint:
    """What planning needs to know of a dataset.

    Spacings (mm) and shapes are in the files' (z, y, x) order, case by case. `intensities` has an entry for each
    channel; it is empty if it was read from a file that has none. `case_ids` and `case_labels` (the foreground values
    of each label map) are empty if the file is another program's; plans do not depend on them, splits may.
    """

    spacings: tuple[tuple[float, float, float], ...]
    shapes_after_crop: tuple[tuple[int, int, int], ...]
    intensities: tuple[ChannelIntensities, ...]
    median_relative_size: float
    source_hash: str | None = None
    case_ids: tuple[str, ...] = ()
    case_labels: tuple[tuple[int, ...], ...] = ()

    def to_nnunet(self) -> dict[str, Any]:
        """The content under the keys of nnU-Net's dataset_fingerprint.json."""
        return {
            "foreground_intensity_properties_per_channel": {
                str(channel): asdict(entry) for channel, entry in enumerate(self.intensities)
            },
            "median_relative_size_after_cropping": self.median_relative_size,
            "shapes_after_crop": [list(shape) for shape in self.shapes_after_crop],
            "spacings": [list(spacing) for spacing in self.spacings],
        }

    def hash(self) -> str:
        """16 hexadecimal digits that change with anything that planning depends on."""
        text = json.dumps(self.to_nnunet(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint_case(
    image: NDArray[np.float32],
    spacing: Sequence[float],
    foreground: NDArray[np.bool_],
    box: Box,
    identifier: str = "",
    *,
    labels: Sequence[int] = (),
) -> CaseFingerprint:
    """Measure one case.

    Args:
        image: (C, Z, Y, X), finite.
        spacing: mm (z, y, x).
        foreground: (Z, Y, X), true where the label map has a label other than background and ignore.
        box: half-open bounds of the non-zero region (`segplan.imaging.nonzero_box`); voxels outside do not count.
        identifier: the case's name, kept for the record.
        labels: foreground values that occur in the label map, kept for the record.
    """
    z, y, x = (slice(low, high) for low, high in box)
    mask = foreground[z, y, x]
    shape = mask.shape
    channels = tuple(_record(channel[z, y, x][mask]) for channel in image) if mask.any() else ()
    return CaseFingerprint(
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        shape_after_crop=(shape[0], shape[1], shape[2]),
        relative_size=math.prod(shape) / math.prod(foreground.shape),
        channels=channels,
        identifier=identifier,
        labels=tuple(labels),
    )


def combine(cases: Iterable[CaseFingerprint], source_hash: str | None = None) -> Fingerprint:
    """Merge case records as they come; the order of `cases` is kept, the records are not.

    Args:
        cases: the records of all cases.
        source_hash: says what the cases were made from, to notice a stale fingerprint.

    Raises:
        DatasetError: there is no case, no case has foreground, or cases differ in their number of channels.
    """
    accumulator = FingerprintAccumulator()
    for case in cases:
        accumulator.add(case)
    return accumulator.result(source_hash)


class FingerprintAccumulator:
    """Merges case records one by one in memory that does not grow with their number (but for a few numbers each).

    Records may come in any order, as workers finish them: the result is the same to the last bit.
    """

    def __init__(self) -> None:
        self._cases: list[tuple[int, CaseFingerprint]] = []  # without their histograms
        self._channels: list[_ChannelMixture] = []

    def add(self, case: CaseFingerprint, position: int | None = None) -> None:
        """Add one case.

        Args:
            case: its record.
            position: where it belongs among all cases; after those added so far if None.

        Raises:
            DatasetError: its number of channels is not that of the cases before.
        """
        if case.channels and self._channels and len(case.channels) != len(self._channels):
            raise DatasetError(
                f"has {len(case.channels)} channels, the cases before have {len(self._channels)}",
                case.identifier or None,
                "Give every case the same channels.",
            )
        place = len(self._cases) if position is None else position
        self._cases.append((place, replace(case, channels=())))
        if case.channels and not self._channels:
            self._channels = [_ChannelMixture() for _ in case.channels]
        for mixture, record in zip(self._channels, case.channels, strict=False):
            mixture.add(record, place)

    def result(self, source_hash: str | None = None) -> Fingerprint:
        """The fingerprint of the cases added so far.

        Raises:
            DatasetError: there is no case, or none has foreground.
        """
        cases = [case for _, case in sorted(self._cases, key=lambda pair: pair[0])]
        if not cases:
            raise DatasetError("has no training case", remedy="Put images in imagesTr and label maps in labelsTr.")
        if not self._channels:
            raise DatasetError(
                f"none of the {len(cases)} label maps has foreground",
                remedy="Check that labelsTr holds the labels that dataset.json names.",
            )
        named = any(case.identifier for case in cases)
        return Fingerprint(
            spacings=tuple(case.spacing for case in cases),
            shapes_after_crop=tuple(case.shape_after_crop for case in cases),
            intensities=tuple(mixture.result() for mixture in self._channels),
            median_relative_size=float(np.median([case.relative_size for case in cases])),
            source_hash=source_hash,
            case_ids=tuple(case.identifier for case in cases) if named else (),
            case_labels=tuple(case.labels for case in cases) if named and any(case.labels for case in cases) else (),
        )


class _ChannelMixture:
    """Statistics of the equal-weight mixture of cases in one channel."""

    def __init__(self) -> None:
        self._moments: list[tuple[int, float, float]] = []  # position, mean and variance of each case
        self._min, self._max = math.inf, -math.inf
        self._histogram = WeightedHistogram()

    def add(self, record: ChannelRecord, position: int) -> None:
        self._moments.append((position, record.mean, record.variance))
        self._min, self._max = min(self._min, record.min), max(self._max, record.max)
        self._histogram.add(record.histogram)

    def result(self) -> ChannelIntensities:
        _, means, variances = np.array(sorted(self._moments), np.float64).T
        low, median, high = self._histogram.percentiles((0.5, 50, 99.5), self._min, self._max)
        return ChannelIntensities(
            mean=float(means.mean()),
            median=median,
            std=math.sqrt(variances.mean() + means.var()),
            min=self._min,
            max=self._max,
            percentile_00_5=low,
            percentile_99_5=high,
        )


def intensities_from_json(data: Mapping[str, Any]) -> ChannelIntensities:
    """Read one channel's entry of nnU-Net's fingerprint; further keys are ignored."""
    return ChannelIntensities(**{name: float(data[name]) for name in ChannelIntensities.__dataclass_fields__})


def _record(values: NDArray[Any]) -> ChannelRecord:
    values = np.ascontiguousarray(values, dtype=np.float32)
    # In pieces: the float64 deviations of a large volume would be twice the volume.
    pieces = np.array_split(values, -(-len(values) // _PIECE))
    mean = sum(float(piece.sum(dtype=np.float64)) for piece in pieces) / len(values)
    squares = sum(float(np.square(np.subtract(piece, mean, dtype=np.float64)).sum()) for piece in pieces)
    return ChannelRecord(
        histogram=histogram(values),
        mean=mean,
        variance=squares / len(values),
        min=float(values.min()),
        max=float(values.max()),
    )
