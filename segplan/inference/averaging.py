"""Probabilities of several models of one case, averaged slab by slab: labels, entropy, and a store of the mean."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from segplan.dataset import Labels
from segplan.errors import StoreError
from segplan.inference.case_export import channel_values, label_type
from segplan.inference.probabilities import ProbabilityStore, ProbabilityWriter

_SLAB_BYTES = 1 << 27
_TINY = 1e-12


def average_stores(
    stores: Sequence[ProbabilityStore],
    labels: Labels,
    *,
    writer: ProbabilityWriter | None = None,
    entropy: bool = False,
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.float32] | None]:
    """Labels of the mean of the stores' probabilities, each counting the same; memory holds two slabs of all classes.

    Args:
        stores: of one case, by models with the same labels.
        labels: what the channels stand for.
        writer: receives the mean too; of the stores' shape and kind.
        entropy: compute it too.

    Returns:
        Labels (Z, Y, X) with the values of label files, and the entropy (Z, Y, X) in nats or None.

    Raises:
        StoreError: the stores do not fit together, or one is damaged.
    """
    first = stores[0]
    for other in stores[1:]:
        if (other.channels, other.shape, other.kind) != (first.channels, first.shape, first.kind):
            raise StoreError("holds probabilities of another size than the others", other.folder, "Predict it again.")
    values = channel_values(labels)
    result = np.zeros(first.shape, dtype=label_type(labels, int(values.max())))
    uncertain = np.zeros(first.shape, dtype=np.float32) if entropy else None
    for start, stop, mean in _mean_slabs(stores):
        result[start:stop] = labels_of_probabilities(mean, values, painted=labels.has_regions)
        if writer is not None:
            writer.write(start, mean)
        if uncertain is not None:
            uncertain[start:stop] = entropy_of(mean, first.kind)
    return result, uncertain


def labels_of_probabilities(
    probabilities: NDArray[np.float32], values: NDArray[np.int32], *, painted: bool
) -> NDArray[np.int32]:
    """The label of each voxel.

    Args:
        probabilities: (K, Z, Y, X).
        values: the label that each channel stands for.
        painted: the channels are regions: later ones cover earlier ones where they are above one half. Else the most
            probable label wins, of equal ones the first.
    """
    if not painted:
        return np.asarray(values[probabilities.argmax(axis=0)])
    result = np.zeros(probabilities.shape[1:], dtype=np.int32)
    for channel, value in zip(probabilities, values, strict=True):
        result[channel > 0.5] = value
    return result


def entropy_of(probabilities: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Entropy in nats of the distribution of each voxel, (Z, Y, X); of regions ("sigmoid") the sum over all regions."""
    total = np.zeros(probabilities.shape[1:], dtype=np.float32)
    for channel in probabilities:
        total -= channel * np.log(np.maximum(channel, _TINY))
        if kind == "sigmoid":
            total -= (1 - channel) * np.log(np.maximum(1 - channel, _TINY))
    return np.maximum(total, 0)


def _mean_slabs(stores: Sequence[ProbabilityStore]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    for start, stop in stores[0].ranges(_SLAB_BYTES):
        mean = stores[0].read(start, stop)
        for store in stores[1:]:
            mean += store.read(start, stop)
        mean /= len(stores)
        yield start, stop, mean
