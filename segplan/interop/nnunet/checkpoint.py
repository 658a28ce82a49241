"""Read nnU-Net v2's checkpoint_*.pth without running anything that the file brings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from segplan.errors import ModelError
from segplan.interop.torch_file import read_torch_file, without_wrappers


@dataclass(frozen=True)
class Checkpoint:
    """What predicting needs of a checkpoint.

    Args:
        weights: parameters under nnU-Net's names, each once, float32.
        mirror_axes: network axes along which the training mirrored; None if it did not.
        trainer: name of the trainer class.
        configuration: that was trained, e.g. 3d_fullres; None where the checkpoint does not say.
    """

    weights: Mapping[str, Tensor]
    mirror_axes: tuple[int, ...] | None
    trainer: str
    configuration: str | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of nnU-Net v2.

    Raises:
        ModelError: it is none, is damaged, or holds objects that could run code.
    """
    content = read_torch_file(path)
    weights = content.get("network_weights")
    made_by = content.get("init_args")
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        remedy = "Copy it again from the machine that trained it."
        raise ModelError("it has no network_weights: it is no checkpoint of nnU-Net v2", path, remedy)
    return Checkpoint(
        canonical_weights(weights),
        _mirror_axes(content.get("inference_allowed_mirroring_axes"), path),
        str(content.get("trainer_name", "unknown")),
        made_by.get("configuration") if isinstance(made_by, Mapping) else None,
    )


def canonical_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each parameter once: nnU-Net registers the encoder again under the decoder, and each block's modules twice."""
    return {
        key: value.float()
        for key, value in without_wrappers(weights).items()
        if not key.startswith("decoder.encoder.") and ".all_modules." not in key
    }


def _mirror_axes(given: Any, path: Path) -> tuple[int, ...] | None:
    if given is None:
        return None
    try:
        return tuple(int(axis) for axis in given)
    except (TypeError, ValueError) as error:
        what = f"its inference_allowed_mirroring_axes are {given!r}, no list of axes"
        raise ModelError(what, path, "Copy it again from the machine that trained it.") from error
