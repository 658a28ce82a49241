"""The model folder: all that predicting needs, as data. Reading one runs nothing of it.

    MODEL/model.json                       plan, network, patch, mirroring (see `ModelFolder`)
    MODEL/postprocessing.json              the steps to apply to label maps, where a selection found that they help
    MODEL/fold_K/weights.safetensors       the weights at the end of the fold's training
    MODEL/fold_K/weights_best.safetensors  the weights with the best validation score, where kept
    MODEL/fold_K/network.onnx              in place of the weights: the network, exported for onnxruntime
    MODEL/previous/                        of a cascade: the model folder of its first stage

A run folder (workspace/runs/DATASET/CONFIGURATION/RUN) is a model folder; `segplan export-model` packs one into a zip.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segplan
from segplan.errors import ModelError
from segplan.imaging import atomic_write
from segplan.model_files import ModelFiles

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MODEL_FILE = "model.json"
PREVIOUS = "previous"
"""Folder of a cascade's first stage inside its model folder."""
WEIGHT_FILES = {"final": "weights.safetensors", "best": "weights_best.safetensors"}
"""File name inside fold_K of each kind of weights."""
ONNX_FILE = "network.onnx"
"""File name inside fold_K of a network exported to ONNX, which takes the place of final weights."""
PROGRAM_FILE = "network.pt2"
"""File name inside fold_K of a network exported by torch.export; segplan does not run it."""
POSTPROCESSING_FILE = "postprocessing.json"

_REQUIRED_KEYS = ("format", "name", "plan", "patch_size", "network", "mirror_axes")
_REQUIRED_OF_PLAN = ("labels", "spacing", "transpose", "normalization", "use_mask_for_norm", "intensities")


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk; open one with `ModelFolder.open`.

    Args:
        path: the folder, or the zip.
        files: what is in it.
        name: DATASET/[NAME/]CONFIGURATION.
        plan: the plan node of the training's configuration (spacing, labels, normalisation ...).
        patch_size: voxels per network axis, (Z, Y, X) or (Y, X).
        network: `name` of a class in `segplan.networks`; the other keys are its arguments.
        mirror_axes: network axes along which the training mirrored; None if it did not.
        mirror_swap: where mirroring exchanges labels, the "axis" and the pairs of "labels"; None if it does not.
    """

    path: Path
    files: ModelFiles = field(compare=False, repr=False)
    name: str
    plan: Mapping[str, Any]
    patch_size: tuple[int, ...]
    network: Mapping[str, Any]
    mirror_axes: tuple[int, ...] | None
    mirror_swap: Mapping[str, Any] | None = None

    @classmethod
    def open(cls, path: Path | str | ModelFiles) -> "ModelFolder":
        """Read model.json of the folder or zip `path`.

        Raises:
            ModelError: there is no such folder, it is not a model folder, of a later format, or a zip that is refused.
        """
        files = path if isinstance(path, ModelFiles) else ModelFiles.open(path)
        data, place = _read_json(files), files.place(MODEL_FILE)
        missing = [key for key in _REQUIRED_KEYS if key not in data]
        if isinstance(data.get("plan"), dict):
            missing += [f"plan.{key}" for key in _REQUIRED_OF_PLAN if key not in data["plan"]]
        if missing:
            raise ModelError(f"lacks {', '.join(missing)}", place, "Make the model folder again.")
        if data["format"] != FORMAT:
            raise ModelError(
                f"has format {data['format']}, this segplan ({segplan.__version__}) reads format {FORMAT}",
                place,
                "Use the segplan version that wrote it, or a later one.",
            )
        try:
            return cls(
                path=files.path,
                files=files,
                name=str(data["name"]),
                plan=dict(data["plan"]),
                patch_size=tuple(int(size) for size in data["patch_size"]),
                network=dict(data["network"]),
                mirror_axes=None if data["mirror_axes"] is None else tuple(int(axis) for axis in data["mirror_axes"]),
                mirror_swap=data.get("mirror_swap"),
            )
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"holds a value of another kind than expected ({error})", place, "Make the model folder again."
            ) from error

    @property
    def previous(self) -> "ModelFolder | None":
        """The model whose segmentation is an input of this one; None unless this is a cascade.

        Raises:
            ModelError: it is a cascade, and its first stage is not in the folder.
        """
        stage = self.plan.get("previous_stage")
        if stage is None:
            return None
        if not self.files.has(f"{PREVIOUS}/{MODEL_FILE}"):
            what = f"it is a cascade, and its first stage {stage} is not in it ({PREVIOUS}/{MODEL_FILE})"
            remedy = "Put that stage's model folder there, or give its label maps: previous_stage=FOLDER."
            raise ModelError(what, self.path, remedy)
        return ModelFolder.open(self.files.within(PREVIOUS))

    @property
    def postprocessing(self) -> tuple[Mapping[str, Any], ...]:
        """The steps of postprocessing.json, to be applied to label maps in this order; none where there is no file.

        Raises:
            ModelError: the file is no list of steps.
        """
        if not self.files.has(POSTPROCESSING_FILE):
            return ()
        return read_steps(self.files)

    @property
    def best_kind(self) -> str:
        """The kind of weights to predict with unless told otherwise: "final", or "best" where there are no others."""
        return "best" if self.folds("best") and not self.folds() else "final"

    def folds(self, checkpoint: str = "final") -> tuple[str, ...]:
        """The folds ("0", "1", ... or "all") that have weights of this kind, in order."""
        names = (_file(checkpoint), *([ONNX_FILE] if checkpoint == "final" else []))
        split = (name.split("/") for name in self.files.names())
        inside = [parts for parts in split if len(parts) == 2 and parts[0].startswith("fold_") and parts[1] in names]
        found = {folder.removeprefix("fold_") for folder, _ in inside}
        return tuple(sorted(found, key=lambda fold: (not fold.isdigit(), int(fold) if fold.isdigit() else 0, fold)))

    def select_folds(
        self, folds: Sequence[int | str] | int | str | None = None, checkpoint: str = "final"
    ) -> tuple[str, ...]:
        """The folds to predict with: those asked for, or all that have weights.

        With folds=None a fold "all" is left out where numbered folds exist.

        Raises:
            ModelError: a fold asked for has no weights, or none has; names those that have.
        """
        found = self.folds(checkpoint)
        if not found:
            if checkpoint == "final" and self.folds("best"):
                remedy = "Predict with those (checkpoint=best), or train the fold to its end."
                raise ModelError("has no final weights yet, but the best ones", self.path, remedy)
            raise self._lacking(f"has no {checkpoint} weights yet", "0", found)
        if folds is None:
            return tuple(fold for fold in found if fold != "all") or found
        wanted = [folds] if isinstance(folds, int | str) else list(folds)
        asked = tuple(dict.fromkeys(str(fold) for fold in wanted))
        missing = [fold for fold in asked if fold not in found]
        if not asked:
            raise ModelError("names no fold", "folds=[]", f"There are folds {', '.join(found)}.")
        if missing:
            noun = "fold" if len(missing) == 1 else "folds"
            raise self._lacking(f"has no {checkpoint} weights of {noun} {', '.join(missing)}", missing[0], found)
        return asked

    def weights_name(self, fold: int | str, checkpoint: str = "final") -> str:
        """The file of a fold's weights within the model; of an export to ONNX, its network."""
        name, exported = f"fold_{fold}/{_file(checkpoint)}", f"fold_{fold}/{ONNX_FILE}"
        return exported if checkpoint == "final" and self.files.has(exported) and not self.files.has(name) else name

    def weights_path(self, fold: int | str, checkpoint: str = "final") -> Path:
        """Where the weights of a fold stand; of an export to ONNX, its network."""
        return self.path / self.weights_name(fold, checkpoint)

    def read_weights(self, fold: int | str, checkpoint: str = "final") -> dict[str, "Tensor"]:
        """The state dict of a fold, on the CPU; out of a zip without unpacking it.

        Raises:
            ModelError: the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load, load_file

        name = self.weights_name(self.select_folds(fold, checkpoint)[0], checkpoint)
        path = self.files.place(name)
        try:
            if self.files.in_zip:
                return dict(load(self.files.read(name)))
            self.files.check(name)
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"cannot be read ({error})", path, "Copy the model folder again, or train the fold again."
            ) from error

    def identity(self, folds: Sequence[str], checkpoint: str = "final", *, with_previous: bool = True) -> str:
        """Hash of all in the folder that decides a prediction by `folds`: plan, network, patch, mirroring, weights.

        A cascade's first stage counts unless its label maps come from elsewhere (`with_previous=False`).
        """
        decisive = [self.plan, self.patch_size, self.network, self.mirror_axes]
        if self.mirror_swap is not None:
            decisive.append(dict(self.mirror_swap))
        digest = hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=16)
        for fold in folds:
            digest.update(self.files.digest(self.weights_name(fold, checkpoint)))
        if with_previous and (previous := self.previous) is not None:
            kind = previous.best_kind
            digest.update(previous.identity(previous.select_folds(checkpoint=kind), kind).encode())
        return digest.hexdigest()

    def _lacking(self, what: str, fold: str, found: Sequence[str]) -> ModelError:
        if any(name.endswith(f"/{PROGRAM_FILE}") for name in self.files.names()):
            remedy = (
                "torch.export.load opens them. To predict with segplan, take the model itself or export format=onnx."
            )
            return ModelError("holds torch.export programs, which segplan does not run", self.path, remedy)
        have = f"There are folds {', '.join(found)}. " if found else ""
        train = f"Train: python train.py plan={self.name} fold={fold} run={self.path.name}"
        return ModelError(what, self.path, f"{have}{train}")


def write_model_json(
    folder: Path,
    *,
    name: str,
    plan: Mapping[str, Any],
    patch_size: Sequence[int],
    network: Mapping[str, Any],
    mirror_axes: Sequence[int] | None,
    mirror_swap: Mapping[str, Any] | None = None,
) -> Path:
    """Write MODEL/model.json; arguments as in `ModelFolder`.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    data = {
        "format": FORMAT,
        "segplan": segplan.__version__,
        "name": name,
        "plan": dict(plan),
        "patch_size": list(patch_size),
        "network": dict(network),
        "mirror_axes": None if mirror_axes is None else list(mirror_axes),
        **({} if mirror_swap is None else {"mirror_swap": dict(mirror_swap)}),
    }
    with atomic_write(folder / MODEL_FILE) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder / MODEL_FILE


def write_weights(folder: Path, fold: int | str, weights: Mapping[str, "Tensor"], checkpoint: str = "final") -> Path:
    """Write the state dict of a fold into the model folder `folder`; returns the file.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    from safetensors.torch import save_file

    path = folder / f"fold_{fold}" / _file(checkpoint)
    with atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # an ordinary file's; safetensors makes one that its owner alone can read
        save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, temporary)
        temporary.chmod(mode)
    return path


def _file(checkpoint: str) -> str:
    if checkpoint not in WEIGHT_FILES:
        raise ModelError(f"there are no weights {checkpoint!r}", "checkpoint", f"Use {' or '.join(WEIGHT_FILES)}.")
    return WEIGHT_FILES[checkpoint]


def read_steps(files: ModelFiles) -> tuple[Mapping[str, Any], ...]:
    """The steps of a model's postprocessing.json.

    Raises:
        ModelError: it is no list of steps, each with its `operation`.
    """
    steps = files.read_json(POSTPROCESSING_FILE)
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "operation" in step for step in steps):
        raise ModelError("is no list of steps", files.place(POSTPROCESSING_FILE), "Make the model folder again.")
    return tuple(steps)


def _read_json(files: ModelFiles) -> dict[str, Any]:
    if files.has("ensemble.json"):
        remedy = "predict.py model= takes it; in Python: segplan.EnsemblePredictor."
        raise ModelError("is an ensemble of several models, not one", files.path, remedy)
    if not files.has(MODEL_FILE):
        remedy = "Name a run folder (workspace/runs/DATASET/CONFIGURATION/RUN) or a model's zip."
        raise ModelError(f"is not a model folder: it has no {MODEL_FILE}", files.path, remedy)
    data = files.read_json(MODEL_FILE)
    if not isinstance(data, dict):
        raise ModelError("is not a JSON object", files.place(MODEL_FILE), "Make the model folder again.")
    return data
