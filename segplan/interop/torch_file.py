"""Read files of torch.save without running anything that they bring."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segplan.errors import ModelError

_DTYPES = (np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType, np.dtypes.BoolDType)
_SCALAR = np.float64(0).__reduce__()[0]
# Logs hold numpy scalars; before numpy 2 their constructor had another address.
_HARMLESS: list[Any] = [_SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype, *_DTYPES]


def read_torch_file(path: Path) -> dict[str, Any]:
    """The dictionary in a file of torch.save: tensors on the CPU, plain values and numpy scalars.

    Tensors of newer files are mapped, not read, until they are used.

    Raises:
        ModelError: it is damaged, no dictionary, or holds objects that could run code.
    """
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"holds more than weights and plain values ({reason})", path, "It is not read: that could run code."
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise ModelError(f"cannot be read ({error})", path, "Copy it again from where it comes.") from error
    if not isinstance(content, dict):
        raise ModelError("holds no dictionary", path, "Name a checkpoint.")
    return content


def without_wrappers(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by their own names; DDP and torch.compile put theirs in front."""
    return {_unwrapped(name): value for name, value in weights.items() if isinstance(value, Tensor)}


def _unwrapped(name: str) -> str:
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name
