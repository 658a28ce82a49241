"""A file that says which predicted value stands for which reference value."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import ConfigError

_EXAMPLE = "Write one line for each label: the predicted value, a colon, the reference's value (5: 1)."


def read_renumbering(path: Path, allowed: Collection[int] | None = None) -> dict[int, int]:
    """Read a YAML file `{predicted value: reference value}`.

    Args:
        path: the file. Several predicted values may stand for one reference value.
        allowed: the values that the reference may have; None if that is not known.

    Raises:
        ConfigError: the file is missing, is no such mapping, or names a value that the reference cannot have.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("the label map cannot be read", path, "Give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("the label map is no valid YAML", path, _EXAMPLE) from error
    if not isinstance(content, Mapping) or not content:
        raise ConfigError("the label map holds no mapping of values", path, _EXAMPLE)
    wrong = [f"{key}: {value}" for key, value in content.items() if not (_is_label(key) and _is_label(value))]
    if wrong:
        raise ConfigError(f"not whole numbers from 0 up: {', '.join(wrong)}", path, _EXAMPLE)
    unknown = sorted(set(content.values()) - set(allowed)) if allowed is not None else []
    if unknown and allowed is not None:
        known = ", ".join(map(str, sorted(allowed)))
        raise ConfigError(f"the reference has no label {', '.join(map(str, unknown))}", path, f"It has {known}.")
    return dict(content)


def renumber(labels: NDArray[np.integer[Any]], renumbering: Mapping[int, int]) -> NDArray[np.int64]:
    """Replace each predicted value by the reference's; values that are not listed become background (0)."""
    found, inverse = np.unique(labels, return_inverse=True)
    values = np.array([renumbering.get(int(value), 0) for value in found], np.int64)
    return values[inverse].reshape(labels.shape)


def _is_label(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
