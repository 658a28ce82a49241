"""The files of a model: a folder, or one zip that is read where it lies. Nothing in them is run, and paths are checked.

checksums.json    SHA-256 of every other file; where it is there, each file is compared with it as it is read
"""

import hashlib
import io
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from segplan.errors import ModelError

CHECKSUM_FILE = "checksums.json"

_LONGEST_JSON = 64 << 20
_LARGEST_RATIO = 20  # weights hardly compress; a zip that grows more than that is made to fill a memory
_SPARE_BYTES = 64 << 20
_ENCRYPTED = 0x1
_AGAIN = "Copy or download it again."


class _Source(Protocol):
    """Where bytes come from; names are relative, with slashes."""

    @property
    def path(self) -> Path: ...

    def names(self, prefix: str) -> frozenset[str]: ...

    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes: ...

    def digest(self, name: str, algorithm: str) -> "hashlib._Hash": ...


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, which may lie in a part of a folder or zip.

    Args:
        source: the folder or zip.
        prefix: of this model's files within it: "" or "previous/", say.
        checksums: SHA-256 of the source's files by name; empty where there is no checksums.json.
    """

    source: _Source = field(repr=False)
    prefix: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path | str) -> "ModelFiles":
        """The files in the folder or zip `path`; a zip may hold them in a single folder.

        Raises:
            ModelError: there is nothing, it is no whole zip, or it has names, links or sizes that no model has.
        """
        place = Path(path)
        source: _Source
        if place.is_dir():
            source, prefix = _Folder(place), ""
        elif place.is_file():
            source = _Zip(place, _checked_members(place))
            prefix = source.only_folder()
        else:
            remedy = "Name a run folder (workspace/runs/DATASET/CONFIGURATION/RUN) or a model's zip."
            raise ModelError("there is no such model folder", place, remedy)
        files = cls(source, prefix)
        return cls(source, prefix, _checksums(files) if files.has(CHECKSUM_FILE) else {})

    def within(self, folder: str) -> "ModelFiles":
        """The files of the model in a folder of this one."""
        return ModelFiles(self.source, f"{self.prefix}{folder}/", self.checksums)

    @property
    def path(self) -> Path:
        """The model's folder, as messages name it; of a zip, the zip."""
        return self.source.path / self.prefix if self.prefix else self.source.path

    def place(self, name: str) -> Path:
        """The path of a file, as messages name it."""
        return self.path / name

    @property
    def in_zip(self) -> bool:
        """Whether `place` is no path that could be opened."""
        return isinstance(self.source, _Zip)

    def names(self) -> frozenset[str]:
        """The model's own files and those of its folds; of a zip all."""
        return self.source.names(self.prefix)

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return self.source.has(self.prefix + name)

    def read(self, name: str) -> bytes:
        """The content of a file, compared with its checksum.

        Raises:
            ModelError: it cannot be read, or is not what it was when the checksums were made.
        """
        content = self.source.read(self.prefix + name)
        if self.checksums:
            self._compare(name, hashlib.sha256(content).hexdigest())
        return content

    def check(self, name: str) -> None:
        """Compare a file with its checksum without holding it in memory; errors as `read`."""
        if self.checksums:
            self._compare(name, self.source.digest(self.prefix + name, "sha256").hexdigest())

    def digest(self, name: str) -> bytes:
        """BLAKE2b of a file's content."""
        return self.source.digest(self.prefix + name, "blake2b").digest()

    def read_json(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
            ModelError: it cannot be read or is no JSON.
        """
        content = self.read(name)
        if len(content) > _LONGEST_JSON:
            raise ModelError(f"it is {len(content) >> 20} MB long, and no model needs that", self.place(name))
        try:
            return json.loads(content)
        except ValueError as error:
            raise ModelError(f"cannot be read ({error})", self.place(name), "Make the model folder again.") from error

    def _compare(self, name: str, found: str) -> None:
        known = self.checksums.get(self.prefix + name)
        if known is None:
            raise ModelError(f"{CHECKSUM_FILE} does not list it", self.place(name), _AGAIN)
        if known != found:
            raise ModelError(
                f"is damaged or changed: {CHECKSUM_FILE} has another SHA-256 for it", self.place(name), _AGAIN
            )


@dataclass(frozen=True)
class _Folder:
    path: Path

    def names(self, prefix: str) -> frozenset[str]:
        folder = self.path / prefix
        found = (path for pattern in ("*", "fold_*/*") for path in folder.glob(pattern))
        return frozenset(path.relative_to(folder).as_posix() for path in found if path.is_file())

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot be read ({error})", self.path / name, "Copy the model folder again.") from error

    def digest(self, name: str, algorithm: str) -> "hashlib._Hash":
        try:
            with (self.path / name).open("rb") as file:
                return hashlib.file_digest(file, algorithm)
        except OSError as error:
            raise ModelError(f"cannot be read ({error})", self.path / name, "Copy the model folder again.") from error


@dataclass(frozen=True)
class _Zip:
    """A zip whose members were checked; it is opened for every reading, so that threads do not share a file."""

    path: Path
    members: frozenset[str]

    def only_folder(self) -> str:
        """The "NAME/" that all members lie in, as where a person packed the folder itself; else ""."""
        tops = {name.partition("/")[0] for name in self.members}
        return f"{next(iter(tops))}/" if len(tops) == 1 and all("/" in name for name in self.members) else ""

    def names(self, prefix: str) -> frozenset[str]:
        return frozenset(name.removeprefix(prefix) for name in self.members if name.startswith(prefix))

    def has(self, name: str) -> bool:
        return name in self.members

    def read(self, name: str) -> bytes:
        content = io.BytesIO()
        self._copy(name, content.write)
        return content.getvalue()

    def digest(self, name: str, algorithm: str) -> "hashlib._Hash":
        digest = hashlib.new(algorithm)
        self._copy(name, digest.update)
        return digest

    def _copy(self, name: str, take: Any) -> None:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(name) as file:
                while block := file.read(1 << 20):
                    take(block)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, NotImplementedError) as error:
            raise ModelError(f"cannot be read ({error})", self.path / name, _AGAIN) from error


def check_members(members: Iterable[zipfile.ZipInfo], path: Path) -> None:
    """Refuse a zip whose names would lead out of a folder, or that was made to do harm.

    Args:
        members: of the zip.
        path: of the zip.

    Raises:
        ModelError: a name is absolute, holds `..` or a backslash, or is there twice; a member is a link or encrypted;
            or the members are far larger than the zip.
    """
    seen: set[str] = set()
    total = 0
    for member in members:
        name = member.orig_filename
        if unsafe_name(name) or stat.S_ISLNK(member.external_attr >> 16):
            raise ModelError(
                f"it holds {name!r}, which leads out of it: nothing was read", path, "Do not use this file."
            )
        if name in seen:
            raise ModelError(f"it holds {name!r} twice", path, "Do not use this file.")
        if member.flag_bits & _ENCRYPTED:
            raise ModelError("it is encrypted", path, "Unpack it, and name the folder.")
        seen.add(name)
        total += member.file_size
    if total > _LARGEST_RATIO * path.stat().st_size + _SPARE_BYTES:
        what = (
            f"unpacked it would be {total >> 20} MB, packed it is {path.stat().st_size >> 20}: no model packs like that"
        )
        raise ModelError(what, path, "Do not use this file.")


def unsafe_name(name: str) -> bool:
    """Whether a zip's member of that name might be written outside the folder that it is unpacked into."""
    parts = name.rstrip("/").split("/")
    return bool(re.search(r"[\\\x00]|^[A-Za-z]:", name)) or any(part in ("", ".", "..") for part in parts)


def _checked_members(path: Path) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ModelError(f"is neither a model folder nor a whole zip ({error})", path, _AGAIN) from error
    check_members(members, path)
    return frozenset(member.filename for member in members if not member.is_dir())


def _checksums(files: ModelFiles) -> dict[str, str]:
    data = files.read_json(CHECKSUM_FILE)
    table = data.get("sha256") if isinstance(data, dict) else None
    if not isinstance(table, dict) or not table:
        raise ModelError("lists no SHA-256", files.place(CHECKSUM_FILE), _AGAIN)
    missing = sorted(name for name in table if not files.has(str(name)))
    if missing:
        raise ModelError(f"lacks {', '.join(missing)}, which {CHECKSUM_FILE} lists", files.path, _AGAIN)
    return {files.prefix + str(name): str(digest) for name, digest in table.items()}
