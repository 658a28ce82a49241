"""Which file of weights a path means, and its hash. No torch here: a training is refused before it loads."""

import hashlib
from pathlib import Path

from segplan.errors import ModelError
from segplan.model_folder import MODEL_FILE, WEIGHT_FILES, ModelFolder

_IN_A_FOLD = (WEIGHT_FILES["final"], "checkpoint_final.pth", "checkpoint_best.pth")


def pretrained_file(source: Path) -> Path:
    """The file of weights that `source` means: itself, or the one in a fold's folder or a model folder with one fold.

    Raises:
        ModelError: there is none, or there are several.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise ModelError("there is no such file or folder", source, "Check finetune.checkpoint.")
    found = [source / name for name in _IN_A_FOLD if (source / name).is_file()]
    if found:
        return found[0]
    if (source / MODEL_FILE).is_file():
        model = ModelFolder.open(source)
        folds = model.select_folds()
        if len(folds) == 1:
            return model.weights_path(folds[0])
        remedy = f"Name one: {source / f'fold_{folds[0]}'}"
        raise ModelError(f"has the folds {', '.join(folds)}", source, remedy)
    remedy = "Name a model folder, a fold's folder, or a file (.safetensors, .pth, .model, .ckpt)."
    raise ModelError("holds no weights", source, remedy)


def content_hash(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
