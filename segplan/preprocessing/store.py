"""The case store: preprocessed cases as plain .npy files that are read by memory map, a box at a time.

A case CASE consists of

    CASE.image.npy       float32 (C, Z, Y, X)
    CASE.labels.npy      int8 or int16 (Z, Y, X)
    CASE.locations.npy   int32 (N, 3): foreground voxels, class after class
    CASE.reference.npz   the label map as it was in its file, compressed
    CASE.json            properties, layout and checksum of the other files; written last

so a case exists exactly if its JSON does, and a writer that is killed leaves nothing that counts. Nothing is pickled.
"""

import io
import json
import mmap
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segplan.errors import Problem, StoreError
from segplan.imaging import TEMPORARY_PREFIX, atomic_write, remove_leftovers
from segplan.preprocessing.case import CaseProperties, PreprocessedCase

FORMAT = 2
REMEDY = "Take the case out and make it again: segplan verify-store FOLDER --remove, then plan.py stages=[preprocess]"

_META = ".json"
_IMAGE, _LABELS, _LOCATIONS, _REFERENCE = ".image.npy", ".labels.npy", ".locations.npy", ".reference.npz"
_FILES = (_IMAGE, _LABELS, _LOCATIONS, _REFERENCE)
_MEMBER = "reference.npy"
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class StoredCase:
    """A case as it lies in a store. Small and picklable: arrays are mapped when asked for, and held by the caller only.

    Args:
        folder: the store's.
        identifier: the case's.
        properties: the way back to the original frame.
        source_hash: of what the case was made from.
        files: per file ending, its size and checksum, and for arrays dtype, shape and offset of the data.
        ranges: per class, where its rows stand among the locations.
    """

    folder: Path
    identifier: str
    properties: CaseProperties
    source_hash: str
    files: Mapping[str, Mapping[str, Any]]
    ranges: Mapping[str, tuple[int, int]]

    @property
    def image(self) -> NDArray[np.float32]:
        """(C, Z, Y, X), memory-mapped, read-only."""
        return self._map(_IMAGE)

    @property
    def labels(self) -> NDArray[np.integer]:
        """(Z, Y, X) int8 or int16, memory-mapped, read-only."""
        return self._map(_LABELS)

    @property
    def locations(self) -> dict[str, NDArray[np.int32]]:
        """Per class an (N, 3) array of voxel indices, memory-mapped, read-only."""
        rows: NDArray[np.int32] = self._map(_LOCATIONS)
        return {key: rows[start:stop] for key, (start, stop) in self.ranges.items()}

    def reference(self) -> NDArray[np.integer]:
        """The untouched label map (Z, Y, X) in the original frame.

        Raises:
            StoreError: there is none, or its file is damaged.
        """
        path = self._path(_REFERENCE)
        try:
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(archive.read(_MEMBER))
            array: NDArray[np.integer] = np.lib.format.read_array(content, allow_pickle=False)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise StoreError(f"the reference label map cannot be read ({error})", path, REMEDY) from error
        return array

    def _path(self, ending: str) -> Path:
        if ending not in self.files:
            raise StoreError(f"the case has no {ending.split('.')[1]}", self.folder / self.identifier, REMEDY)
        return self.folder / f"{self.identifier}{ending}"

    def _map(self, ending: str) -> NDArray[Any]:
        path = self._path(ending)
        # mmap itself, not numpy's memmap: that takes five times as long, and its slices cost more.
        try:
            layout = self.files[ending]
            with path.open("rb", buffering=0) as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.ndarray(layout["shape"], np.dtype(layout["dtype"]), content, layout["offset"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the file is missing or damaged ({error})", path, REMEDY) from error


@dataclass(frozen=True)
class CaseStore:
    """A folder of preprocessed cases that share a `PreprocessingPlan`.

    Args:
        folder: made by the first `write`.
    """

    folder: Path

    def identifiers(self) -> list[str]:
        """All complete cases, sorted."""
        names = self._names()
        return [stem for stem in self.described() if stem + _IMAGE in names]

    def has(self, identifier: str, source_hash: str) -> bool:
        """Whether the case is complete and was made from `source_hash`; file sizes are looked at, not contents."""
        try:
            case = self.open(identifier)
            sizes = {ending: case._path(ending).stat().st_size for ending in case.files}
        except (StoreError, OSError):
            return False
        return case.source_hash == source_hash and all(
            sizes[ending] == case.files[ending].get("bytes") for ending in case.files
        )

    def open(self, identifier: str) -> StoredCase:
        """Read a case's description; its arrays are mapped when asked for.

        Raises:
            StoreError: there is no such case, or its JSON is damaged or of another format.
        """
        path = self.folder / f"{identifier}{_META}"
        try:
            content = path.read_bytes()
            data = json.loads(content)
            if data["format"] != FORMAT:
                raise StoreError(f"format {data['format']} is not the format {FORMAT} of this segplan", path, REMEDY)
            if _sealed(data) != content:
                raise ValueError("it is not as it was written")
            return StoredCase(
                folder=self.folder,
                identifier=identifier,
                properties=CaseProperties.from_json(data["properties"]),
                source_hash=data["source_hash"],
                files={ending: dict(layout) for ending, layout in data["files"].items()},
                ranges={key: (start, stop) for key, (start, stop) in data["locations"].items()},
            )
        except FileNotFoundError as error:
            raise StoreError("the case is not in the store", path, "Run plan.py with stages=[preprocess]") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"the case's description is damaged ({error!r})", path, REMEDY) from error

    def write(
        self,
        identifier: str,
        case: PreprocessedCase,
        locations: Mapping[str, NDArray[np.int32]],
        reference: NDArray[np.integer] | None,
        source_hash: str,
    ) -> None:
        """Add or replace a case. A kill at any moment leaves either the whole case or none.

        Args:
            identifier: the case's name; anything that can be a file name.
            case: its arrays on the network's grid.
            locations: see `foreground_locations`.
            reference: the untouched label map (Z, Y, X) in the original frame.
            source_hash: of what the case was made from; `has` compares it.

        Raises:
            StoreError: `identifier` cannot be a file name.
            StorageError: the folder cannot be written.
        """
        if not identifier or Path(identifier).name != identifier or "\0" in identifier:
            raise StoreError("a case's name cannot be a path", identifier, "Rename the case's files")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.remove(identifier)
        contents = {_IMAGE: _npy(case.image), _LOCATIONS: _npy(_stacked(locations))}
        if case.labels is not None:
            contents[_LABELS] = _npy(_smallest(case.labels))
        if reference is not None:
            contents[_REFERENCE] = _Content([_zipped(_npy(reference))], {})
        files = {ending: self._write(identifier, ending, content) for ending, content in contents.items()}
        description = {
            "format": FORMAT,
            "source_hash": source_hash,
            "properties": case.properties.to_json(),
            "locations": _ranges(locations),
            "files": files,
        }
        with atomic_write(self.folder / f"{identifier}{_META}") as temporary:
            temporary.write_bytes(_sealed(description))

    def remove(self, identifier: str) -> None:
        """Take a case out; nothing happens if it is not there."""
        for ending in (_META, *_FILES):
            (self.folder / f"{identifier}{ending}").unlink(missing_ok=True)

    def remove_leftovers(self, older_than_s: float = 3600.0) -> int:
        """Delete the temporary files of killed writers, not those of writers at work; returns how many there were."""
        return remove_leftovers(self.folder, older_than_s)

    def described(self) -> list[str]:
        """All cases that have a description, be their arrays there or not; sorted."""
        return sorted(name.removesuffix(_META) for name in self._names() if name.endswith(_META))

    def undescribed(self) -> dict[str, list[str]]:
        """Files of cases without a description: what a killed writer has left, or damage. Case name to file names."""
        names = self._names()
        found: dict[str, list[str]] = {}
        for name in sorted(names):
            for ending in _FILES:
                if name.endswith(ending) and name.removesuffix(ending) + _META not in names:
                    found.setdefault(name.removesuffix(ending), []).append(name)
        return found

    def holds_cases(self) -> bool:
        """Whether this is a store, be it damaged; other folders with JSON files, such as a raw dataset's, are none."""
        if any(name.endswith(_FILES) for name in self._names()):
            return True
        return any(_is_description(self.folder / f"{identifier}{_META}") for identifier in self.described())

    def leftovers(self) -> list[str]:
        """Names of temporary files, of writers that were killed or are at work."""
        return sorted(path.name for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"))

    def verify(self, identifier: str) -> list[Problem]:
        """Compare every file of a case with its size and checksum."""
        try:
            case = self.open(identifier)
        except StoreError as error:
            return [Problem(identifier, error.what, error.remedy or REMEDY)]
        problems = []
        for ending, expected in case.files.items():
            path = self.folder / f"{identifier}{ending}"
            try:
                found = {"bytes": path.stat().st_size, "crc32": _file_checksum(path)}
            except OSError as error:
                problems.append(Problem(identifier, f"{path.name} cannot be read ({error.strerror})", REMEDY))
                continue
            if any(expected.get(key) != value for key, value in found.items()):
                problems.append(Problem(identifier, f"{path.name} is not as it was written", REMEDY))
        return problems

    def _names(self) -> set[str]:
        """Names of the files that belong to cases; temporary files do not."""
        if not self.folder.is_dir():
            return set()
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)}

    def _write(self, identifier: str, ending: str, content: "_Content") -> dict[str, Any]:
        checksum, size = 0, 0
        with atomic_write(self.folder / f"{identifier}{ending}") as temporary, temporary.open("wb") as file:
            for part in content.parts:
                file.write(part)
                checksum = zlib.crc32(part, checksum)
                size += len(part)
        return {"bytes": size, "crc32": checksum, **content.layout}


def _is_description(path: Path) -> bool:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"format", "source_hash", "properties", "files"} <= data.keys()


@dataclass(frozen=True)
class _Content:
    """The bytes of a file in order, and for an array where its data lies in it."""

    parts: list[Any]
    layout: dict[str, Any]


def _sealed(description: Mapping[str, Any]) -> bytes:
    """A description as JSON, its own checksum in it; a whole file gives the same bytes when it is read and sealed."""
    body = {key: value for key, value in description.items() if key != "crc32"}
    return json.dumps({**body, "crc32": zlib.crc32(json.dumps(body).encode())}).encode()


def _npy(array: NDArray[Any]) -> _Content:
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    layout = {"dtype": array.dtype.str, "shape": list(array.shape), "offset": header.tell()}
    return _Content([header.getvalue(), array.reshape(-1).view(np.uint8).data], layout)


def _zipped(content: _Content) -> bytes:
    """An .npz with a fixed date, so that equal label maps give equal files. Level 1: label maps are nearly empty."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        member = zipfile.ZipInfo(_MEMBER, date_time=_EPOCH)
        archive.writestr(member, b"".join(content.parts), zipfile.ZIP_DEFLATED, 1)
    return buffer.getvalue()


def _smallest(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    narrow = np.iinfo(np.int8)
    fits = labels.min(initial=0) >= narrow.min and labels.max(initial=0) <= narrow.max
    return labels.astype(np.int8) if fits else labels


def _stacked(locations: Mapping[str, NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate([np.empty((0, 3), dtype=np.int32), *locations.values()]).astype(np.int32, copy=False)


def _ranges(locations: Mapping[str, NDArray[np.int32]]) -> dict[str, tuple[int, int]]:
    ends = np.cumsum([len(rows) for rows in locations.values()]).tolist()
    return {key: (end - len(rows), end) for (key, rows), end in zip(locations.items(), ends, strict=True)}


def _file_checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
