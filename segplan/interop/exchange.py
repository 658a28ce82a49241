"""Networks of a model folder as ONNX files and as torch.export programs, each compared with its original."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from segplan.errors import ModelError
from segplan.imaging import atomic_folder, atomic_write
from segplan.inference.network import load_network
from segplan.inference.onnx_network import OnnxNetwork
from segplan.model_folder import MODEL_FILE, ONNX_FILE, POSTPROCESSING_FILE, PREVIOUS, PROGRAM_FILE, ModelFolder
from segplan.preprocessing.plan_node import labels_of

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit where that is above 1, that an export may have."""


def export_onnx(model: ModelFolder, target: Path, network_target: str | None = None) -> float:
    """Write a model folder whose networks are ONNX files of a free batch size, for onnxruntime.

    Its model.json says how images are preprocessed and what the logits become; `Predictor` reads it as any other.

    Args:
        model: whose final weights are taken, or the best where there are no others.
        target: the folder to make.
        network_target: see `load_network`.

    Returns:
        The largest difference of a logit from the original's.

    Raises:
        ModelError: onnx is not installed, `target` is there already, or the export differs by more than `TOLERANCE`.
        StorageError: the disk is full or the folder cannot be written.
    """
    return _export(model, target, network_target, (ONNX_FILE, _write_onnx, OnnxNetwork))


def export_program(model: ModelFolder, target: Path, network_target: str | None = None) -> float:
    """Write a model folder whose networks are torch.export programs of a free batch size, for AOTInductor and C++.

    Arguments and errors as for `export_onnx`; `Predictor` does not read these.
    """
    return _export(model, target, network_target, (PROGRAM_FILE, _write_program, _load_program))


_Form = tuple[str, Callable[[nn.Module, Tensor, Path], None], Callable[[Path], Callable[[Tensor], Tensor]]]
"""File name in a fold's folder, how it is written, and how it is read back."""


def _export(model: ModelFolder, target: Path, network_target: str | None, form: _Form) -> float:
    file_name, write, load = form
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError("it is there already", target, "Name a new folder, or remove this one.")
    largest, kind = 0.0, model.best_kind
    with atomic_folder(target) as folder:
        for fold in model.select_folds(checkpoint=kind):
            network = load_network(model, fold, kind, network_target)
            if isinstance(network, OnnxNetwork):
                raise ModelError("it is an export itself", model.path, "Export the model that it was made of.")
            path = folder / f"fold_{fold}" / file_name
            write(network, _example(model, 2), path)
            largest = max(largest, _difference(network, load(path), _example(model, 3), model.path))
        if model.previous is not None:
            largest = max(largest, _export(model.previous, folder / PREVIOUS, network_target, form))
        copied = [MODEL_FILE, *([POSTPROCESSING_FILE] if model.postprocessing else [])]
        for name in copied:
            (folder / name).write_bytes(model.files.read(name))
    return largest


def _example(model: ModelFolder, batch: int) -> Tensor:
    channels = len(model.plan["normalization"])
    if model.plan.get("previous_stage"):
        channels += len(labels_of(model.plan).foreground_labels)
    return torch.randn(batch, channels, *model.patch_size, generator=torch.Generator().manual_seed(batch))


def _difference(network: nn.Module, exported: Callable[[Tensor], Tensor], image: Tensor, where: Path) -> float:
    with torch.no_grad():
        expected = network(image)
        difference = float((exported(image) - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):  # NaN too
        what = f"the export would differ from the network by up to {difference:.2g} in a logit"
        raise ModelError(what, where, "Export it in another format, or with another version of torch.")
    return difference


def _write_onnx(network: nn.Module, example: Tensor, path: Path) -> None:
    batch = {0: torch.export.Dim("batch")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # or it lists the operators of packages that are not there
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                network.eval(),
                (example,),
                temporary,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=(batch,),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        except ImportError as error:
            raise ModelError(
                f"exporting needs a package that is not installed ({error.name})",
                path,
                "Install it: pip install 'segplan[onnx]'.",
            ) from error


def _write_program(network: nn.Module, example: Tensor, path: Path) -> None:
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)


def _load_program(path: Path) -> Callable[[Tensor], Tensor]:
    loaded: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return loaded
