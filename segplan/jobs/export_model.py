"""Hand a model on: as ONNX, as a torch.export program, or as a trained model of nnU-Net v2."""

import shlex
from pathlib import Path

from segplan.interop.exchange import export_onnx, export_program
from segplan.interop.nnunet import export_nnunet
from segplan.model_folder import ModelFolder

FORMATS = ("onnx", "torch", "nnunet")


def run(source: Path, target: Path, kind: str) -> int:
    """Export the model folder `source` to the folder `target`.

    Args:
        source: a model folder.
        target: the folder to make.
        kind: one of `FORMATS`.

    Returns:
        The exit code, 0.

    Raises:
        ModelError: the model cannot be exported like this, or the target is there already.
        StorageError: the disk is full or the folder cannot be written.
    """
    model = ModelFolder.open(source)
    folds = ", ".join(model.select_folds())
    if kind == "nnunet":
        folders = export_nnunet(model, target)
        print(f"exported {model.name} · folds {folds} · as nnU-Net keeps trained models: {folders[-1]}")
        print(f"Set nnUNet_results={target} and predict with nnUNetv2_predict.")
        return 0
    difference = (export_onnx if kind == "onnx" else export_program)(model, target)
    print(f"exported {model.name} · folds {folds} · {kind} · logits differ by at most {difference:.1g}: {target}")
    if kind == "onnx":
        print(f"Next: python predict.py model={shlex.quote(str(target))} input=FOLDER output=FOLDER")
    return 0
