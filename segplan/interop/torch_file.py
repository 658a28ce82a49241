"""Read files of torch.save without running anything that they bring."""

import pickle
import re
import warnings
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
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of pickles that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _refusal(str(error), path) from error
    except Exception as error:  # torch raises many kinds for a damaged archive
        reason = str(error).partition(". ")[0] or "it is empty or cut off"
        raise ModelError(f"cannot be read ({reason})", path, "Copy it again from where it comes.") from error
    if not isinstance(content, dict):
        raise ModelError("holds no dictionary", path, "Name a checkpoint.")
    return content


def without_wrappers(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by their own names; DDP and torch.compile put theirs in front."""
    return {
        _unwrapped(name): value
        for name, value in weights.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _refusal(message: str, path: Path) -> ModelError:
    """What torch's long message comes to; it also advises to switch the check off, which users are not told."""
    if "Unsupported operand" in message:
        return ModelError("is no file that torch.save wrote", path, "Name a checkpoint.")
    named = re.search(r"GLOBAL (\S+)", message)
    what = f" ({named[1]})" if named else ""
    return ModelError(f"holds more than weights and plain values{what}", path, "It is not read: that could run code.")


def _unwrapped(name: str) -> str:
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name
