"""Build the networks of a model folder: classes of `segplan.networks` by name, or the one class that the user names."""

import importlib
from typing import Any

import torch
from torch import nn

from segplan import networks
from segplan.errors import ConfigError, ModelError
from segplan.model_folder import MODEL_FILE, ONNX_FILE, ModelFolder
from segplan.planning import check_patch


def load_network(
    model: ModelFolder, fold: int | str, checkpoint: str = "final", network_target: str | None = None
) -> nn.Module:
    """The network of a fold with its weights, on the CPU, in evaluation mode, without deep supervision.

    Args:
        model: the folder.
        fold: whose weights.
        checkpoint: "final" or "best".
        network_target: import path of a class that is none of segplan's. The folder's own word for it is not enough:
            opening a model imports and runs nothing that the model names.

    Raises:
        ModelError: the network is none of segplan's and not the one named, or the weights do not fit it.
    """
    path = model.weights_path(fold, checkpoint)
    if path.name == ONNX_FILE:
        from segplan.inference.onnx_network import OnnxNetwork

        return OnnxNetwork(path, model.files.read(model.weights_name(fold, checkpoint)))
    weights = model.read_weights(fold, checkpoint)
    if "target" in model.network:
        network = _build_named(model, network_target)
    else:
        with torch.device("meta"):  # the weights are replaced anyway, so drawing random ones would be wasted
            network = _build(model)
    try:
        values = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
        network.load_state_dict(values, assign=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise ModelError(
            f"does not fit the network of model.json ({first})", path, "Use the model's own files."
        ) from error
    return network.eval().requires_grad_(False)


def check_model(model: ModelFolder, heads: int) -> None:
    """Refuse a model.json whose values contradict each other, as one that was edited by hand may.

    Args:
        model: the folder.
        heads: that its labels or regions need.

    Raises:
        ModelError: says which values do not fit together.
    """
    file, remedy = model.path / MODEL_FILE, "Use the model's own file."
    if any(step is not None and not step > 0 for step in model.plan["spacing"]):
        raise ModelError(f"has the spacing {model.plan['spacing']}, and spacings are above 0", file, remedy)
    if set(model.mirror_axes or ()) - set(range(len(model.patch_size))):
        raise ModelError(f"mirrors axes {model.mirror_axes} of a patch {model.patch_size}", file, remedy)
    outputs = model.network.get("num_classes", heads)
    if "name" in model.network and outputs != heads:
        raise ModelError(f"its network has {outputs} outputs, its labels need {heads}", file, remedy)
    if "name" in model.network and model.network.get("strides"):
        try:
            check_patch(model.patch_size, model.network["strides"])
        except ConfigError as error:
            raise ModelError(f"its patch_size does not fit its network ({error.what})", file, remedy) from error


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
    networks.set_deep_supervision(network, False)
    return network


def _build_named(model: ModelFolder, allowed: str | None) -> nn.Module:
    """A network of the class `allowed`, which must be the one that the model names."""
    target = str(model.network["target"])
    if target != allowed:
        what = f"its network is the class {target}, which is none of segplan's"
        raise ModelError(what, model.path, f"If you trust it, allow it: network_target={target}")
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ModelError(f"{target} cannot be imported ({error})", model.path, "Install what it comes with.") from error
    if not _is_network(found):
        raise ModelError(f"{target} is no torch.nn.Module", model.path, "Name the network's class.")
    try:
        network: nn.Module = found(**{key: value for key, value in model.network.items() if key != "target"})
    except TypeError as error:
        raise ModelError(f"{target}: {error}", model.path, "Use the version that the model was made by.") from error
    return network


def _is_network(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, nn.Module)
