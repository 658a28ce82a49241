"""Read nnU-Net v2's checkpoint_*.pth without running anything that the file brings."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segplan.errors import ModelError

_DTYPES = (np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType, np.dtypes.BoolDType)
_SCALAR = np.float64(0).__reduce__()[0]
# Its logs hold numpy scalars; before numpy 2 their constructor had another address.
_HARMLESS: list[Any] = [_SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype, *_DTYPES]


@dataclass(frozen=True)
class Checkpoint:
    """What predicting needs of a checkpoint.

    Args:
        weights: parameters under nnU-Net's names, each once, float32.
        mirror_axes: network axes along which the training mirrored; None if it did not.
        trainer: name of the trainer class.
    """

    weights: Mapping[str, Tensor]
    mirror_axes: tuple[int, ...] | None
    trainer: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of nnU-Net v2.

    Raises:
        ModelError: it is none, is damaged, or holds objects that could run code.
    """
    remedy = "Copy it again from the machine that trained it."
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"it holds more than weights and plain values ({reason})", path, "It is not read: that could run code."
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise ModelError(f"it cannot be read ({error})", path, remedy) from error
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), Mapping):
        raise ModelError("it has no network_weights: it is no checkpoint of nnU-Net v2", path, remedy)
    axes = content.get("inference_allowed_mirroring_axes")
    return Checkpoint(
        canonical_weights(content["network_weights"]),
        None if axes is None else tuple(int(axis) for axis in axes),
        str(content.get("trainer_name", "unknown")),
    )


def canonical_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each parameter once: nnU-Net registers the encoder again under the decoder, and each block's modules twice."""
    plain = {_without_wrappers(key): value for key, value in weights.items()}
    return {
        key: value.float()
        for key, value in plain.items()
        if not key.startswith("decoder.encoder.") and ".all_modules." not in key
    }


def _without_wrappers(key: str) -> str:
    """DDP and torch.compile put their own names in front."""
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key
