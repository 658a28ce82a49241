"""A dataset.json that stands outside a raw dataset: beside a plan, or given with a fingerprint."""

import json
from pathlib import Path

from segplan.dataset import Description
from segplan.errors import DatasetError


def read_plan_description(path: Path, label_ending: str | None = None) -> Description:
    """Read and check a dataset.json without looking for images.

    Args:
        path: of the file.
        label_ending: of the label maps, where it is known from elsewhere.

    Raises:
        DatasetError: the file cannot be read, or says something that cannot work.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot be read as JSON ({error})", path, "Name or restore a dataset.json.") from error
    return Description.from_json(raw, path, label_ending)
