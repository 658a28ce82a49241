"""Pack a model, or an ensemble of models, into one zip: data alone, with the SHA-256 of every file."""

import hashlib
import json
import zipfile
from pathlib import Path

from segplan.errors import ModelError
from segplan.imaging import atomic_write
from segplan.imaging.storage import remove_abandoned
from segplan.model_ensemble import ENSEMBLE_FILE, FORMAT, MEMBERS, Member, ModelEnsemble
from segplan.model_files import CHECKSUM_FILE, ModelFiles
from segplan.model_folder import MODEL_FILE, POSTPROCESSING_FILE, PREVIOUS, ModelFolder

_BLOCK = 1 << 20


def write_zip(ensemble: ModelEnsemble, target: Path, *, replace: bool = False) -> None:
    """Write all that predicting with `ensemble` needs; the same models give the same bytes.

    Args:
        ensemble: one model, or several that predict together.
        target: the zip to make.
        replace: it may be there already; the old one stays until the new one is whole.

    Raises:
        ModelError: `target` is there already or ends otherwise, or a file of the model is damaged.
        StorageError: the disk is full or the folder cannot be written.
    """
    if target.suffix.lower() != ".zip":
        raise ModelError("a model's zip ends in .zip", target, f"Name it {target.name}.zip.")
    if target.exists() and not replace:
        raise ModelError("it is there already", target, "Name a new file, or say force=true to replace this one.")
    remove_abandoned(target)
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        writer = _Writer(archive)
        if len(ensemble.members) == 1:
            _add_model(writer, "", ensemble.members[0])
        else:
            writer.add_json(ENSEMBLE_FILE, _description(ensemble))
            for number, member in enumerate(ensemble.members):
                _add_model(writer, f"{MEMBERS}/{number}/", member)
        if ensemble.postprocessing:
            writer.add_json(POSTPROCESSING_FILE, list(ensemble.postprocessing))
        writer.add_json(CHECKSUM_FILE, {"format": FORMAT, "sha256": dict(writer.checksums)})


class _Writer:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.checksums: dict[str, str] = {}

    def add_json(self, name: str, value: object) -> None:
        self._add(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def add_file(self, name: str, files: ModelFiles, source: str) -> None:
        if files.in_zip:
            self._add(name, files.read(source))
            return
        files.check(source)
        digest = hashlib.sha256()
        with files.place(source).open("rb") as file, self.archive.open(_entry(name), "w", force_zip64=True) as out:
            while block := file.read(_BLOCK):
                digest.update(block)
                out.write(block)
        self.checksums[name] = digest.hexdigest()

    def _add(self, name: str, content: bytes) -> None:
        self.archive.writestr(_entry(name), content)
        self.checksums[name] = hashlib.sha256(content).hexdigest()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # of 1980: the time of packing says nothing about the model
    entry.external_attr = 0o644 << 16
    return entry


def _add_model(writer: _Writer, prefix: str, member: Member) -> None:
    model = member.model
    writer.add_file(f"{prefix}{MODEL_FILE}", model.files, MODEL_FILE)
    for fold in member.folds:
        name = model.weights_name(fold, member.checkpoint)
        writer.add_file(f"{prefix}{name}", model.files, name)
    if (first_stage := model.previous) is not None:
        _add_model(writer, f"{prefix}{PREVIOUS}/", _whole(first_stage))


def _whole(model: ModelFolder) -> Member:
    kind = model.best_kind
    return Member(model, model.select_folds(checkpoint=kind), kind)


def _description(ensemble: ModelEnsemble) -> dict[str, object]:
    members = [
        {
            "folder": f"{MEMBERS}/{number}",
            "name": member.model.name,
            "folds": list(member.folds),
            "checkpoint": member.checkpoint,
        }
        for number, member in enumerate(ensemble.members)
    ]
    return {"format": FORMAT, "members": members}
