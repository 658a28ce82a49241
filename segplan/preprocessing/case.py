"""One preprocessed case: its arrays on the network's grid, and what it takes to go back to the file's grid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segplan.errors import ImageError, StoreError
from segplan.imaging import Box, Image, nonzero_box
from segplan.preprocessing.normalize import normalize_channel
from segplan.preprocessing.plan import PreprocessingPlan
from segplan.preprocessing.resample import (
    resample_channel,
    resample_labels,
    resampled_shape,
    separate_axis,
    to_int16,
)

OUTSIDE = -1
"""Label of background voxels outside the nonzero mask (air around a skull-stripped head, say)."""

Triple = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class CaseProperties:
    """What inverting the preprocessing of a case needs.

    "Transposed" means in the network's axis order, before any resampling.

    Args:
        spacing: mm, original axis order (z, y, x).
        shape_before_cropping: transposed.
        box: where the kept part lies in the transposed image, half-open.
        shape_after_cropping: transposed.
        shape: on the network's grid.
        transpose: network axis i is original axis `transpose[i]`.
        geometry: the file's geometry, as `segplan.imaging.Geometry.to_json` gives it.
    """

    spacing: tuple[float, float, float]
    shape_before_cropping: Triple
    box: Box
    shape_after_cropping: Triple
    shape: Triple
    transpose: Triple
    geometry: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "CaseProperties":
        """The inverse of `to_json`.

        Raises:
            StoreError: a key is missing or has another form.
        """
        try:
            z, y, x = (float(value) for value in data["spacing"])
            z_range, y_range, x_range = ((int(low), int(high)) for low, high in data["box"])
            return cls(
                spacing=(z, y, x),
                shape_before_cropping=_triple(data["shape_before_cropping"]),
                box=(z_range, y_range, x_range),
                shape_after_cropping=_triple(data["shape_after_cropping"]),
                shape=_triple(data["shape"]),
                transpose=_triple(data["transpose"]),
                geometry=dict(data["geometry"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the case's properties are unusable ({error!r})", remedy="Preprocess it again") from error


@dataclass(frozen=True)
class PreprocessedCase:
    """A case on the network's grid.

    Args:
        image: (C, Z, Y, X) float32.
        labels: (Z, Y, X) int8 or int16, `OUTSIDE` where there was background outside the nonzero mask; None if unknown.
        properties: the way back.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.integer] | None
    properties: CaseProperties


def preprocess(
    image: Image,
    label_map: NDArray[np.integer] | None,
    plan: PreprocessingPlan,
    *,
    ignore_label: int | None = None,
    overwrite: bool = False,
) -> PreprocessedCase:
    """Crop to the nonzero box, transpose, normalise and resample one case, in this order.

    Args:
        image: as read from its files, array (C, Z, Y, X) in the original frame.
        label_map: (Z, Y, X) in the original frame, or None when predicting; left as it is.
        plan: the rules for this dataset and configuration.
        ignore_label: what voxels of the label map bear that are not annotated, if any do.
        overwrite: the image's array may be changed, which saves the memory of a copy of a channel.

    Raises:
        ImageError: channel count or shapes do not fit, or values cannot be normalised.
    """
    _check(image, label_map, plan)
    mask, original_box = nonzero_box(image.array)
    channels = _crop(image.array, original_box).transpose(0, *(1 + axis for axis in plan.transpose))
    inside = _crop(mask, original_box).transpose(plan.transpose)
    current = _transposed(image.spacing, plan.transpose)
    target = plan.target_spacing(image.spacing)
    properties = CaseProperties(
        spacing=image.spacing,
        shape_before_cropping=_transposed(image.array.shape[1:], plan.transpose),
        box=_transposed(original_box, plan.transpose),
        shape_after_cropping=_triple(channels.shape[1:]),
        shape=resampled_shape(channels.shape[1:], current, target),
        transpose=plan.transpose,
        geometry=image.geometry.to_json(),
    )
    labels = None
    if label_map is not None:
        marked = _marked(_crop(label_map, original_box).transpose(plan.transpose), inside)
        nearest = plan.label_resampling == "nearest"
        ignored = ignore_label if plan.label_resampling == "annotated" else None
        labels = resample_labels(marked, properties.shape, current, target, nearest=nearest, ignored=ignored)
        np.greater_equal(marked, 0, out=inside)
        del marked
    array = np.empty((len(channels), *properties.shape), dtype=np.float32)
    separate = separate_axis(current, target)
    schemes = zip(plan.normalization, plan.use_mask, plan.intensities, strict=True)
    for channel, out, (scheme, masked, known) in zip(channels, array, schemes, strict=True):
        mask_of_channel = inside if masked else None
        if channel.shape == out.shape:
            out[...] = channel
            normalize_channel(out, scheme, mask_of_channel, known)
            continue
        # One channel at a time: only one is ever held twice.
        own = channel if overwrite and channel.dtype == np.float32 else np.array(channel, dtype=np.float32, order="C")
        normalize_channel(own, scheme, mask_of_channel, known)
        resample_channel(own, out, separate, order=3)
    return PreprocessedCase(array, labels, properties)


def _marked(label_map: NDArray[np.integer], inside: NDArray[np.bool_]) -> NDArray[np.integer]:
    """A compact copy of the label map with `OUTSIDE` where there is background outside the nonzero mask."""
    labels: NDArray[np.integer]
    if _fits_int8(label_map):
        labels = np.array(label_map, dtype=np.int8, order="C")
    else:
        labels = np.array(to_int16(label_map), order="C")
    outside = labels == 0
    np.greater(outside, inside, out=outside)  # background and not inside, without a further mask
    labels[outside] = OUTSIDE
    return labels


def _fits_int8(labels: NDArray[np.integer]) -> bool:
    narrow = np.iinfo(np.int8)
    return bool(labels.min(initial=0) >= narrow.min and labels.max(initial=0) <= narrow.max)


def _check(image: Image, label_map: NDArray[np.integer] | None, plan: PreprocessingPlan) -> None:
    channels, expected = image.array.shape[0], len(plan.normalization)
    if channels != expected:
        remedy = "Give the channels that dataset.json names, in its order"
        raise ImageError(f"the image has {channels} channel(s), the plan {expected}", remedy=remedy)
    if label_map is not None and label_map.shape != image.array.shape[1:]:
        what = f"the label map's shape {label_map.shape} differs from the image's {image.array.shape[1:]}"
        raise ImageError(what, remedy="Mend or remove the case")


def _crop(array: NDArray[Any], box: Box) -> NDArray[Any]:
    """The part of the last three axes that lies in `box`, as a view."""
    z, y, x = (slice(low, high) for low, high in box)
    return array[..., z, y, x]


def _transposed(values: tuple[T, ...], transpose: Triple) -> tuple[T, T, T]:
    return (values[transpose[0]], values[transpose[1]], values[transpose[2]])


def _triple(values: Any) -> Triple:
    x, y, z = (int(value) for value in values)
    return (x, y, z)
