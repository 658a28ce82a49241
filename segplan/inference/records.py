"""predict.json: what made each label map of an output folder, so that nothing is made twice or mixed up."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segplan.errors import ConfigError
from segplan.imaging import atomic_write
from segplan.inference.probabilities import SUFFIX

FORMAT = 1

_PROBABILITIES = (SUFFIX, ".npz")
_NAME = re.compile(r"predict(_\d+of\d+)?\.json")


@dataclass
class Record:
    """The predictions of one job in one output folder.

    Args:
        folder: the output folder.
        maker: model, folds and settings: what decides the labels of a given image.
        shard: this job's number.
        num_shards: into how many jobs the cases are shared; each writes a file of its own.
        cases: per case what this job or its earlier runs made: hashes of input and outputs, seconds a stage ...
        others: the same of other shards.
        failed: per case why it could not be made.
        replaced: per case what another maker wrote, whose predictions are being replaced.
    """

    folder: Path
    maker: Mapping[str, Any]
    shard: int = 0
    num_shards: int = 1
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: Path, maker: Mapping[str, Any], *, shard: int = 0, num_shards: int = 1, force: bool = False
    ) -> "Record":
        """Read what the output folder holds.

        Raises:
            ConfigError: another model or other settings made it, and `force` is not set.
        """
        record = cls(folder, maker, shard, num_shards)
        for path in record_files(folder):
            data = _read(path)
            if data["maker"] == dict(maker) and path == record.path:
                record.cases = data["cases"]
            elif data["maker"] == dict(maker):
                record.others.append(data["cases"])
            elif not force:
                raise ConfigError(
                    f"holds predictions made otherwise ({_difference(data['maker'], maker)})",
                    f"output={folder}",
                    "Choose another output folder, or force=true to make them again.",
                )
            else:
                record.replaced |= data["cases"]
        return record

    @property
    def path(self) -> Path:
        """The file of this job."""
        name = "predict.json" if self.num_shards == 1 else f"predict_{self.shard}of{self.num_shards}.json"
        return self.folder / name

    def entry(self, identifier: str, input_hash: str) -> dict[str, Any] | None:
        """What is known of the case if it was made from this input and its outputs are as they were written."""
        for cases in (self.cases, *self.others):
            found = cases.get(identifier)
            if found is None or found["input"] != input_hash:
                continue
            if all(file_hash(self.folder / name) == digest for name, digest in found["outputs"].items()):
                return found
        return None

    def edited(self, identifier: str) -> Path | None:
        """An output of the case that is there, but no longer as any job wrote it: somebody has corrected it.

        Probabilities are no one's to correct: where they are not as they were, they are damaged.
        """
        written: dict[str, set[str | None]] = {}
        for cases in (self.cases, *self.others):
            for name, digest in cases.get(identifier, {}).get("outputs", {}).items():
                written.setdefault(name, set()).add(digest)
        paths = {self.folder / name: digests for name, digests in written.items() if not name.endswith(_PROBABILITIES)}
        return next((path for path, known in paths.items() if path.exists() and file_hash(path) not in known), None)

    def remove_stale(self, identifier: str, before: Mapping[str, Any]) -> None:
        """Remove what the case's new outputs leave over of those `before`, but for what somebody has edited."""
        now = self.cases[identifier]["outputs"]
        for name, digest in before.get("outputs", {}).items():
            path = self.folder / name
            if name in now or digest is None or file_hash(path) != digest:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def save(self, about: Mapping[str, Any]) -> None:
        """Write the record; `about` is further information for people (versions, device)."""
        content = {"format": FORMAT, "maker": dict(self.maker), **about, "cases": self.cases, "failed": self.failed}
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def discard_others(self) -> None:
        """Remove the records of other makers: their predictions are about to be replaced."""
        for path in record_files(self.folder):
            if path != self.path and _read(path)["maker"] != dict(self.maker):
                path.unlink()


def record_files(folder: Path) -> list[Path]:
    """All records in an output folder: one, or one a shard."""
    return sorted(path for path in folder.glob("predict*.json") if _NAME.fullmatch(path.name))


def file_hash(path: Path) -> str | None:
    """Hash of a file's content, of a folder that of its files' names and sizes; None if it is not there."""
    if path.is_dir():
        digest = hashlib.blake2b(digest_size=12)
        for piece in sorted(path.iterdir()):
            digest.update(f"{piece.name}\0{piece.stat().st_size}\0".encode())
        return digest.hexdigest()
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        usable = isinstance(data["maker"], dict) and isinstance(data["cases"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot be read ({error!r})", path, "Choose another output folder.") from error
    if not usable or data.get("format") != FORMAT:
        raise ConfigError("was not written by this version of segplan", path, "Choose another output folder.")
    return dict(data)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    # Two runs of one plan differ by nothing but the hash of their weights; elsewhere the hash says nothing to a person.
    shown = [key for key in keys if key != "identity"]
    return "; ".join(f"{key} {old.get(key)} → {new.get(key)}" for key in shown) or "by other weights"
