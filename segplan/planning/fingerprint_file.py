"""Read and write dataset_fingerprint.json: nnU-Net's keys, and one of our own that says what it was made from."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segplan import __version__
from segplan.errors import DatasetError
from segplan.imaging import atomic_write
from segplan.planning.fingerprint import Fingerprint, intensities_from_json

_REMEDY = "Give a dataset_fingerprint.json as segplan or nnU-Net writes it."


def write_fingerprint(path: Path, fingerprint: Fingerprint) -> None:
    """Write `fingerprint` as JSON that nnU-Net reads too; the file is either complete or not there."""
    own = {
        "version": __version__,
        "source_hash": fingerprint.source_hash,
        "case_ids": list(fingerprint.case_ids),
        "case_labels": [list(labels) for labels in fingerprint.case_labels],
    }
    with atomic_write(path) as temporary:
        content = fingerprint.to_nnunet() | {"segplan": own}
        temporary.write_text(json.dumps(content, indent=4, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def read_fingerprint(path: Path) -> Fingerprint:
    """Read a fingerprint that segplan or nnU-Net wrote.

    One without intensities serves to plan but not to preprocess CT.

    Raises:
        DatasetError: the file is missing, no JSON, or holds no valid fingerprint.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"cannot be read ({error.strerror})", path, _REMEDY) from error
    except ValueError as error:
        raise DatasetError(f"is not JSON ({error})", path, _REMEDY) from error
    return fingerprint_from_json(data, path)


def fingerprint_from_json(data: Mapping[str, Any], where: str | Path | None = None) -> Fingerprint:
    """The fingerprint in nnU-Net's JSON structure.

    Args:
        data: the parsed file.
        where: named in errors.

    Raises:
        DatasetError: a key is missing or a value is impossible.
    """
    try:
        fingerprint = _parse(data)
    except KeyError as error:
        raise DatasetError(f"lacks the key {error}", where, _REMEDY) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"is no fingerprint ({error})", where, _REMEDY) from error
    _check(fingerprint, where)
    return fingerprint


def _parse(data: Mapping[str, Any]) -> Fingerprint:
    # Older nnU-Net files call channels modalities.
    channels = data.get("foreground_intensity_properties_per_channel") or data.get(
        "foreground_intensity_properties_by_modality", {}
    )
    own = data.get("segplan", {})
    return Fingerprint(
        spacings=tuple((float(z), float(y), float(x)) for z, y, x in data["spacings"]),
        shapes_after_crop=tuple((int(z), int(y), int(x)) for z, y, x in data["shapes_after_crop"]),
        intensities=tuple(intensities_from_json(channels[key]) for key in sorted(channels, key=int)),
        median_relative_size=float(data["median_relative_size_after_cropping"]),
        source_hash=own.get("source_hash"),
        case_ids=tuple(str(case) for case in own.get("case_ids", ())),
        case_labels=tuple(tuple(int(label) for label in labels) for labels in own.get("case_labels", ())),
    )


def _check(fingerprint: Fingerprint, where: str | Path | None) -> None:
    spacings, shapes = fingerprint.spacings, fingerprint.shapes_after_crop
    if not spacings or len(spacings) != len(shapes):
        raise DatasetError(f"has {len(spacings)} spacings and {len(shapes)} shapes", where, _REMEDY)
    if not all(0 < value < math.inf for spacing in spacings for value in spacing):
        raise DatasetError("has a spacing that is not positive", where, "Mend the spacing in the image's header.")
    if not all(size > 0 for shape in shapes for size in shape):
        raise DatasetError("has a shape without voxels", where, _REMEDY)
