"""Hand a model on: as one zip, as ONNX, as a torch.export program, or as a trained model of nnU-Net v2."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from segplan.errors import ModelError
from segplan.model_ensemble import ENSEMBLE_FILE, ModelEnsemble
from segplan.model_files import ModelFiles
from segplan.model_folder import ModelFolder
from segplan.model_zip import write_zip

FORMATS = ("zip", "onnx", "torch", "nnunet")


def run(
    source: Path,
    target: Path,
    kind: str | None = None,
    *,
    folds: Sequence[str] | None = None,
    network_target: str | None = None,
    workspace: Path | None = None,
    force: bool = False,
) -> int:
    """Export the model in `source` to `target`.

    Args:
        source: a model folder or a model's zip; for a zip also an ensemble's, or the .yaml of a selection.
        target: the zip, or else the folder, to make.
        kind: one of `FORMATS`; None: by the ending of `target`.
        folds: for a zip, those to take along; None: all.
        network_target: import path of the network's class where that is none of segplan's.
        workspace: where the plans of a selection were trained.
        force: a zip that is there already is replaced.

    Returns:
        The exit code, 0.

    Raises:
        ModelError: the model cannot be exported like this, or the target is there already.
        ConfigError: the selection's file cannot be used.
        StorageError: the disk is full or the folder cannot be written.
    """
    if (kind or target.suffix.lower().removeprefix(".")) == "zip":
        return _zip(source, target, folds, workspace, force=force)
    if kind is None:
        raise ModelError("the format is not known", target, f"Say format={'|'.join(FORMATS)}, or name a .zip.")
    if force:
        raise ModelError("replaces a zip only", f"force=true format={kind}", "Name a new folder.")
    if folds is not None:
        raise ModelError("takes all folds along", f"format={kind}", "Leave out folds=, or export a zip of them first.")
    files = ModelFiles.open(source)
    if files.has(ENSEMBLE_FILE):
        raise ModelError("is an ensemble, which only format=zip can hold", source, "Export its members one by one.")
    model = ModelFolder.open(files)
    names = ", ".join(model.select_folds(checkpoint=model.best_kind))
    if kind == "nnunet":
        from segplan.interop.nnunet.export import export_nnunet

        folders = export_nnunet(model, target)
        print(f"exported {model.name} · folds {names} · as nnU-Net keeps trained models: {folders[-1]}")
        print(f"Set nnUNet_results={target} and predict with nnUNetv2_predict.")
        return 0
    from segplan.interop.exchange import export_onnx, export_program

    difference = (export_onnx if kind == "onnx" else export_program)(model, target, network_target)
    print(f"exported {model.name} · folds {names} · {kind} · logits differ by at most {difference:.1g}: {target}")
    if kind == "onnx":
        _say_next(target)
    return 0


def _zip(source: Path, target: Path, folds: Sequence[str] | None, workspace: Path | None, *, force: bool) -> int:
    if source.suffix.lower() in (".yaml", ".yml"):
        from segplan.jobs.prediction_models import ensemble_of_file

        ensemble = ensemble_of_file(source, workspace)
    else:
        files = ModelFiles.open(source)
        checkpoint = "final" if files.has(ENSEMBLE_FILE) else ModelFolder.open(files).best_kind
        ensemble = ModelEnsemble.open(source, folds, checkpoint)
    write_zip(ensemble, target, replace=force)
    size = target.stat().st_size / 1e6
    described = " + ".join(member.described for member in ensemble.members)
    print(f"exported {described} · {size:.1f} MB, each file with its SHA-256: {target}")
    _say_next(target)
    return 0


def _say_next(target: Path) -> None:
    print(f"Next: python predict.py model={shlex.quote(str(target))} input=FOLDER output=FOLDER")
