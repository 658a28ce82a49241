"""What can be wrong with the content of one case; every finding names numbers and what to do."""

from collections.abc import Container, Sequence

import numpy as np

from segplan.dataset.description import Description
from segplan.dataset.labels import Labels
from segplan.dataset.layout import Case
from segplan.errors import Problem
from segplan.imaging import Image
from segplan.imaging.image import corner_shift

_SPACING_TOLERANCE = 1e-3  # relative; header roundings between tools are smaller, real differences larger
_NOTED_SHIFT = 0.1  # voxels
_MOST_VALUES_SHOWN = 8


def check_case(case: Case, description: Description, image: Image, label_map: Image | None) -> list[Problem]:
    """All problems of one case, for the table that verification shows.

    A label map at another position or orientation than its image is a note only: nnU-Net 2.8.1 accepts it too, since
    published datasets with sloppy headers are common and only the voxels count. So is an empty label map.

    Args:
        case: for its identifier and file names.
        description: of the dataset.
        image: array (C, Z, Y, X).
        label_map: array (1, Z, Y, X), or None where there is none (prediction).
    """
    problems = [*_value_problems(case, image), *_channel_problems(case, description, image)]
    if label_map is not None:
        problems += _grid_problems(case, image, label_map)
        problems += _label_problems(case, description.labels, label_map.array)
    return problems


def check_classes(labels: Labels, occurring: Container[str]) -> list[Problem]:
    """What only all cases together tell: names of dataset.json that occur in no case.

    A note where it is some of them: they are planned and trained with no example. A problem where it is all.

    Args:
        labels: of the dataset.
        occurring: those of `labels.targets` that occur in some case.
    """
    absent = [name for name in labels.targets if name not in occurring]
    if len(absent) == len(labels.targets):
        remedy = "Check that labelsTr holds the right files."
        return [Problem(None, "every label map is empty: there is nothing to learn", remedy)]
    problems = []
    for name in absent:
        what = f"{name} (value {', '.join(map(str, labels.targets[name]))}) occurs in no case"
        remedy = "Check its value in dataset.json; a class without an example cannot be learned."
        problems.append(Problem(None, what, remedy, fatal=False))
    return problems


def _value_problems(case: Case, image: Image) -> list[Problem]:
    problems = []
    for number, channel in enumerate(image.array):
        # The extremes are finite only if all values are, and finding them needs no memory.
        if not channel.size or (np.isfinite(channel.min()) and np.isfinite(channel.max())):
            continue
        nans, infinities = int(np.isnan(channel).sum()), int(np.isinf(channel).sum())
        counts = [f"{count} {kind}" for count, kind in ((nans, "NaN"), (infinities, "infinite")) if count]
        what = f"channel {number} has {' and '.join(counts)} of {channel.size} voxels"
        problems.append(Problem(case.identifier, what, "Replace them by real values, such as 0 or the background's."))
    return problems


def _channel_problems(case: Case, description: Description, image: Image) -> list[Problem]:
    found, named = len(image.array), len(description.channel_names)
    if found == named:
        return []
    what = f"the image has {found} channels, dataset.json names {named} ({', '.join(description.channel_names)})"
    files = f"{named} channels (files _0000 to _{named - 1:04d})" if named > 1 else "one channel (file _0000)"
    remedy = f"Give every case {files}, or mend channel_names."
    return [Problem(case.identifier, what, remedy)]


def _grid_problems(case: Case, image: Image, label_map: Image) -> list[Problem]:
    shape, label_shape = image.array.shape[1:], label_map.array.shape[1:]
    if shape != label_shape:
        what = f"the image has {_times(shape)} voxels (z×y×x), the label map {_times(label_shape)}"
        return [Problem(case.identifier, what, "Take the label map of this image, or resample it onto the image.")]
    if not np.allclose(image.spacing, label_map.spacing, rtol=_SPACING_TOLERANCE, atol=0):
        what = f"the image's spacing is {_times(image.spacing)} mm (z×y×x), the label map's {_times(label_map.spacing)}"
        return [Problem(case.identifier, what, "Mend the header that is wrong, or resample one onto the other.")]
    shift = corner_shift(image.geometry, label_map.geometry, shape[::-1])
    if shift <= _NOTED_SHIFT:
        return []
    what = f"origin or direction of image and label map differ (by up to {shift:.1f} voxels)"
    remedy = "Voxels are paired by index; if an overlay does not fit, resample the label map onto the image."
    return [Problem(case.identifier, what, remedy, fatal=False)]


def _label_problems(case: Case, labels: Labels, array: np.ndarray) -> list[Problem]:
    known = [*labels.all_labels, *([] if labels.ignore is None else [labels.ignore])]
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    gaps = len(known) <= max(known)  # without gaps, the extremes tell whether there is another value
    problems = []
    if low < 0 or high > max(known) or (gaps and not all(np.isin(part, known).all() for part in array[0])):
        values, counts = np.unique(array[~np.isin(array, known)], return_counts=True)
        shown = [f"{value} ({count} voxels)" for value, count in zip(values, counts, strict=True)]
        more = f" and {len(shown) - _MOST_VALUES_SHOWN} more" if len(shown) > _MOST_VALUES_SHOWN else ""
        noun = "a value" if len(shown) == 1 else "values"
        what = f"the label map has {noun} that dataset.json lacks: {', '.join(shown[:_MOST_VALUES_SHOWN])}{more}"
        problems.append(Problem(case.identifier, what, "Add them to labels in dataset.json, or mend the label map."))
    elif _is_empty(array, high, labels.ignore):
        what = "the label map has no foreground"
        remedy = "Nothing to do if that is true of the case: it is kept, and left out of foreground oversampling."
        if low == labels.ignore:
            what = "no voxel of the label map is annotated: all bear the ignore label"
            remedy = "Leave the case out, or annotate a part: it teaches nothing, and nothing of it can be scored."
        problems.append(Problem(case.identifier, what, remedy, fatal=False))
    return problems


def _is_empty(array: np.ndarray, high: int, ignore: int | None) -> bool:
    if ignore is None or high < ignore:
        return high == 0
    return not ((array > 0) & (array != ignore)).any()


def _times(values: Sequence[float]) -> str:
    return "×".join(f"{value:.6g}" for value in values)
