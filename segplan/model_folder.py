"""The model folder: all that predicting needs, as data. Reading one runs nothing of it.

    MODEL/model.json                       plan, network, patch, mirroring (see `ModelFolder`)
    MODEL/fold_K/weights.safetensors       the weights at the end of the fold's training
    MODEL/fold_K/weights_best.safetensors  the weights with the best validation score, where kept
    MODEL/fold_K/network.onnx              in place of the weights: the network, exported for onnxruntime
    MODEL/previous/                        of a cascade: the model folder of its first stage

A run folder (workspace/runs/DATASET/CONFIGURATION/RUN) is a model folder.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segplan
from segplan.errors import ModelError
from segplan.imaging import atomic_write

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

_REQUIRED_KEYS = ("format", "name", "plan", "patch_size", "network", "mirror_axes")
_REQUIRED_OF_PLAN = ("labels", "spacing", "transpose", "normalization", "use_mask_for_norm", "intensities")


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk; open one with `ModelFolder.open`.

    Args:
        path: the folder.
        name: DATASET/[NAME/]CONFIGURATION.
        plan: the plan node of the training's configuration (spacing, labels, normalisation ...).
        patch_size: voxels per network axis, (Z, Y, X) or (Y, X).
        network: `name` of a class in `segplan.networks`; the other keys are its arguments.
        mirror_axes: network axes along which the training mirrored; None if it did not.
        mirror_swap: where mirroring exchanges labels, the "axis" and the pairs of "labels"; None if it does not.
    """

    path: Path
    name: str
    plan: Mapping[str, Any]
    patch_size: tuple[int, ...]
    network: Mapping[str, Any]
    mirror_axes: tuple[int, ...] | None
    mirror_swap: Mapping[str, Any] | None = None

    @classmethod
    def open(cls, path: Path | str) -> "ModelFolder":
        """Read model.json of the folder `path`.

        Raises:
            ModelError: there is no such folder, it is not a model folder, or of a later format.
        """
        folder = Path(path)
        data = _read_json(folder)
        missing = [key for key in _REQUIRED_KEYS if key not in data]
        if isinstance(data.get("plan"), dict):
            missing += [f"plan.{key}" for key in _REQUIRED_OF_PLAN if key not in data["plan"]]
        if missing:
            raise ModelError(f"lacks {', '.join(missing)}", folder / MODEL_FILE, "Make the model folder again.")
        if data["format"] != FORMAT:
            raise ModelError(
                f"has format {data['format']}, this segplan ({segplan.__version__}) reads format {FORMAT}",
                folder / MODEL_FILE,
                "Use the segplan version that wrote it, or a later one.",
            )
        try:
            return cls(
                path=folder,
                name=str(data["name"]),
                plan=dict(data["plan"]),
                patch_size=tuple(int(size) for size in data["patch_size"]),
                network=dict(data["network"]),
                mirror_axes=None if data["mirror_axes"] is None else tuple(int(axis) for axis in data["mirror_axes"]),
                mirror_swap=data.get("mirror_swap"),
            )
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"holds a value of another kind than expected ({error})",
                folder / MODEL_FILE,
                "Make the model folder again.",
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
        if not (self.path / PREVIOUS / MODEL_FILE).is_file():
            what = f"it is a cascade, and its first stage {stage} is not in it ({PREVIOUS}/{MODEL_FILE})"
            raise ModelError(what, self.path, "Put that stage's model folder there.")
        return ModelFolder.open(self.path / PREVIOUS)

    def folds(self, checkpoint: str = "final") -> tuple[str, ...]:
        """The folds ("0", "1", ... or "all") that have weights of this kind, in order."""
        names = (_file(checkpoint), *([ONNX_FILE] if checkpoint == "final" else []))
        files = (file for name in names for file in self.path.glob(f"fold_*/{name}"))
        found = {file.parent.name.removeprefix("fold_") for file in files}
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

    def weights_path(self, fold: int | str, checkpoint: str = "final") -> Path:
        """Where the weights of a fold stand; of an export to ONNX, its network."""
        path = self.path / f"fold_{fold}" / _file(checkpoint)
        exported = path.with_name(ONNX_FILE)
        return exported if checkpoint == "final" and exported.is_file() and not path.exists() else path

    def read_weights(self, fold: int | str, checkpoint: str = "final") -> dict[str, "Tensor"]:
        """The state dict of a fold, on the CPU.

        Raises:
            ModelError: the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.weights_path(self.select_folds(fold, checkpoint)[0], checkpoint)
        try:
            weights: dict[str, Tensor] = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"cannot be read ({error})", path, "Copy the model folder again, or train the fold again."
            ) from error
        return weights

    def identity(self, folds: Sequence[str], checkpoint: str = "final") -> str:
        """Hash of all in the folder that decides a prediction by `folds`: plan, network, patch, mirroring, weights."""
        decisive = [self.plan, self.patch_size, self.network, self.mirror_axes]
        if self.mirror_swap is not None:
            decisive.append(dict(self.mirror_swap))
        digest = hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=16)
        for fold in folds:
            with self.weights_path(fold, checkpoint).open("rb") as file:
                digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
        if (previous := self.previous) is not None:
            digest.update(previous.identity(previous.select_folds()).encode())
        return digest.hexdigest()

    def _lacking(self, what: str, fold: str, found: Sequence[str]) -> ModelError:
        if any(self.path.glob(f"fold_*/{PROGRAM_FILE}")):
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
        save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, temporary)
    return path


def _file(checkpoint: str) -> str:
    if checkpoint not in WEIGHT_FILES:
        raise ModelError(f"there are no weights {checkpoint!r}", "checkpoint", f"Use {' or '.join(WEIGHT_FILES)}.")
    return WEIGHT_FILES[checkpoint]


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_FILE
    remedy = "Name a run folder (workspace/runs/DATASET/CONFIGURATION/RUN)."
    if not folder.is_dir():
        raise ModelError("there is no such model folder", folder, remedy)
    if not path.is_file():
        raise ModelError(f"is not a model folder: it has no {MODEL_FILE}", folder, remedy)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"cannot be read ({error})", path, "Make the model folder again.") from error
    if not isinstance(data, dict):
        raise ModelError("is not a JSON object", path, "Make the model folder again.")
    return data
