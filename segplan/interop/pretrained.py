"""Weights to start a training from: segplan's, nnU-Net v2's or STU-Net's, by segplan's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segplan.errors import ModelError
from segplan.interop.nnunet.checkpoint import canonical_weights
from segplan.interop.torch_file import read_torch_file, without_wrappers

_OURS = "network."  # segplan's checkpoints hold the network under this name
_KNOWN = "segplan reads its own files, nnU-Net v2's .pth and STU-Net's .model."


@dataclass(frozen=True)
class Pretrained:
    """Weights and where they come from.

    Args:
        weights: each parameter once, by segplan's names.
        origin: the program and kind of file, for people.
    """

    weights: Mapping[str, Tensor]
    origin: str


def read_pretrained(path: Path) -> Pretrained:
    """Read a file of weights; nothing that it brings is run.

    Raises:
        ModelError: it is of no known kind, or damaged.
    """
    if path.suffix == ".safetensors":
        return Pretrained(_read_safetensors(path), "segplan, safetensors")
    content = read_torch_file(path)
    found = _read_state(content, path)
    if not found.weights:
        raise ModelError("holds no weights", path, _KNOWN)
    return found


def _read_state(content: Mapping[str, Any], path: Path) -> Pretrained:
    if isinstance(content.get("network_weights"), Mapping):
        return Pretrained(canonical_weights(content["network_weights"]), "nnU-Net v2 checkpoint")
    state = content.get("state_dict")
    if not isinstance(state, Mapping):
        raise ModelError("has neither network_weights nor state_dict", path, _KNOWN)
    weights = without_wrappers(state)
    if "segplan" in content:
        own = {key.removeprefix(_OURS): value for key, value in weights.items() if key.startswith(_OURS)}
        return Pretrained(without_wrappers(own), "segplan checkpoint")
    return Pretrained(weights, "STU-Net model file")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot be read ({error})", path, "Copy it again from where it comes.") from error
    return weights
