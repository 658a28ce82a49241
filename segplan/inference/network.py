"""Build the networks of a model folder. Only classes of `segplan.networks` are ever built, by name."""

from typing import Any

import torch
from torch import nn

from segplan import networks
from segplan.errors import ModelError
from segplan.model_folder import ModelFolder


def load_network(model: ModelFolder, fold: int | str, checkpoint: str = "final") -> nn.Module:
    """The network of a fold with its weights, on the CPU, in evaluation mode, without deep supervision.

    Raises:
        ModelError: the network is none of segplan's, or the weights do not fit it.
    """
    weights = model.read_weights(fold, checkpoint)
    with torch.device("meta"):  # the weights are replaced anyway, so drawing random ones would be wasted
        network = _build(model)
    try:
        network.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)
    except RuntimeError as error:
        path = model.weights_path(fold, checkpoint)
        first = " ".join(str(error).split())[:300]
        raise ModelError(
            f"does not fit the network of model.json ({first})", path, "Use the model's own files."
        ) from error
    return network.eval().requires_grad_(False)


def _build(model: ModelFolder) -> nn.Module:
    arguments = {key: value for key, value in model.network.items() if key not in ("name", "deep_supervision")}
    name = str(model.network.get("name"))
    known = [item for item in networks.__all__ if _is_network(getattr(networks, item))]
    if name not in known:
        raise ModelError(f"there is no network {name}", model.path, f"This segplan has {', '.join(known)}.")
    try:
        network: nn.Module = getattr(networks, name)(**arguments)
    except TypeError as error:
        raise ModelError(f"network {name}: {error}", model.path, "Use the segplan version that wrote it.") from error
    network.deep_supervision = False  # type: ignore[assignment]
    return network


def _is_network(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, nn.Module)
