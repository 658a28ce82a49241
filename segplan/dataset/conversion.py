"""Turning other layouts into nnU-Net's raw layout: which file becomes which, case by case, and going on after a stop.

OUT/conversion.json says what the folder is being made from; it is written first, dataset.json last. So a folder that
holds the former only is an unfinished conversion, and one that holds the latter only is somebody else's dataset.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segplan.dataset.source_files import files_of, has_detached_data, join_detached
from segplan.dataset.volumes import split_volumes
from segplan.errors import DatasetError, StorageError
from segplan.imaging import TEMPORARY_PREFIX, atomic_write, read_label_map, split_ending, write_label_map

RECORD = "conversion.json"
_FORMAT = 1
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


@dataclass(frozen=True)
class CaseSource:
    """Where a case's files come from.

    Attributes:
        identifier: the case's name in the new dataset.
        images: one file a channel, or one that holds all of them; or folders, each a DICOM series.
        label: the label map; None where there is none (test cases).
        volumes: into how many files the only image is taken apart; None: files stay as they are.
        test: whether the case goes to imagesTs and labelsTs.
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path | None
    volumes: int | None = None
    test: bool = False

    @property
    def key(self) -> str:
        """Its name in the record and in messages: a test case may be called like a training case."""
        return f"{self.identifier} (test)" if self.test else self.identifier

    def targets(self) -> tuple[list[str], str | None]:
        """Names of the image files and of the label map in the new dataset's folder; endings in small letters."""
        subset = "Ts" if self.test else "Tr"
        ending = "" if self.images[0].is_dir() else split_ending(self.images[0].name)[1].lower()
        if ending == ".nii" and self.volumes is not None:
            ending = ".nii.gz"
        count = self.volumes or len(self.images)
        images = [f"images{subset}/{self.identifier}_{number:04d}{ending}" for number in range(count)]
        if self.label is None:
            return images, None
        return images, f"labels{subset}/{self.identifier}{split_ending(self.label.name)[1].lower()}"

    def spacing_targets(self) -> dict[str, Path]:
        """New names of the JSON files that hold the spacing of TIFF volumes, each with its source."""
        images, label = self.targets()
        named = [*zip(images, self.images, strict=False), *([] if label is None else [(label, self.label)])]
        return {
            f"{split_ending(name)[0]}.json": beside
            for name, source in named
            if source is not None and source.is_file() and (beside := _spacing_beside(source)) is not None
        }

    def fingerprint(self) -> str:
        """A hash of the names, sizes and times of the sources."""
        digest = hashlib.blake2b(digest_size=8)
        sources = (*self.images, *([] if self.label is None else [self.label]))
        for path in (file for source in sources for file in files_of(source) if file.exists()):
            status = path.stat()
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns};".encode())
        return digest.hexdigest()


def begin(out: Path, origin: Mapping[str, Any], cases: Sequence[CaseSource]) -> list[CaseSource]:
    """Make the folder, or take up a conversion that stopped; what has changed at the source is removed from it.

    Args:
        out: the new dataset's folder.
        origin: the command, its source and its options: another origin in the same folder is refused.
        cases: all of them.

    Returns:
        The cases that are still to be converted.

    Raises:
        DatasetError: the folder holds something else.
        StorageError: the folder cannot be written.
    """
    before = _check_folder(out, origin)
    now = {case.key: _entry(case) for case in cases}
    for key, entry in before.items():
        if now.get(key) != entry:
            for name in entry["files"]:
                _remove(out / name)
    if before != now:
        (out / "dataset.json").unlink(missing_ok=True)
        _write_json(out / RECORD, {"format": _FORMAT, **origin, "cases": now})
    for folder in _FOLDERS:
        for leftover in (out / folder).glob(f"{TEMPORARY_PREFIX}*"):
            _remove(leftover)
    return [case for case in cases if not all((out / name).exists() for name in now[case.key]["files"])]


def finish(out: Path, description: Mapping[str, Any]) -> None:
    """Write dataset.json: the dataset is complete."""
    _write_json(out / "dataset.json", description)


def convert_case(case: CaseSource, out: Path, renumbering: Mapping[int, int] | None = None) -> str:
    """Bring the files of a case into the new dataset; each appears whole or not at all. Runs in worker processes.

    A file that stays as it is becomes a hard link where the file system can do that, else a copy.

    Args:
        case: its sources.
        out: the new dataset's folder.
        renumbering: new value of each label value; None: label maps stay as they are.

    Returns:
        The case's identifier.

    Raises:
        SegplanError: a file cannot be read or written, or a label value has no new one.
    """
    images, label = case.targets()
    for name, source in case.spacing_targets().items():
        _link(source, out / name)
    if case.volumes is not None:
        split_volumes(case.images[0], [out / name for name in images])
    else:
        for source, name in zip(case.images, images, strict=True):
            _link(source, out / name)
    if case.label is not None and label is not None:
        if renumbering is None:
            _link(case.label, out / label)
        else:
            _renumber(case.label, out / label, renumbering)
    return case.identifier


def label_values(case: CaseSource) -> tuple[int, ...]:
    """The values in the label map of a case, ascending; none where it has no label map. Runs in worker processes."""
    if case.label is None:
        return ()
    return tuple(int(value) for value in np.unique(read_label_map(case.label).array))


def _check_folder(out: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """The cases of an earlier conversion from the same origin."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    if not out.is_dir():
        raise DatasetError("this is a file", out, "Give the path of a new folder.")
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        cases = dict(record["cases"])
    except FileNotFoundError as error:
        what = "the folder holds something that this command did not make"
        raise DatasetError(what, out, "Give a new folder, or take this one away first.") from error
    except (ValueError, KeyError, TypeError) as error:
        remedy = "Take the folder away and convert again."
        raise DatasetError(f"{RECORD} is damaged ({error!r})", out, remedy) from error
    differing = [key for key in origin if record.get(key) != origin[key]]
    if differing:
        key = differing[0]
        what = f"it was converted with another {key} ({record.get(key)}, now {origin[key]})"
        raise DatasetError(what, out, "Give a new folder, or take this one away first.")
    return cases


def _entry(case: CaseSource) -> dict[str, Any]:
    images, label = case.targets()
    return {
        "source": case.fingerprint(),
        "files": [*images, *([] if label is None else [label]), *case.spacing_targets()],
    }


def _link(source: Path, target: Path) -> None:
    source = source.resolve()
    if source.is_dir():
        _link_folder(source, target)
        return
    if has_detached_data(source):  # its data file, by whatever name, would be left behind
        join_detached(source, target)
        return
    with atomic_write(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)


def _spacing_beside(source: Path) -> Path | None:
    return next((path for path in files_of(source)[1:] if path.suffix == ".json"), None)


def _link_folder(source: Path, target: Path) -> None:
    """Bring the files of a DICOM series into a folder that appears as a whole."""
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                _link(path, temporary / path.name)
        temporary.rename(target)
    except OSError as error:
        raise StorageError(f"cannot be made ({error.strerror})", target, "Choose another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _renumber(source: Path, target: Path, renumbering: Mapping[int, int]) -> None:
    image = read_label_map(source)
    found, inverse = np.unique(image.array[0], return_inverse=True)
    unknown = [int(value) for value in found if int(value) not in renumbering]
    if unknown:
        what = f"the label map has the value {unknown[0]}, which labels= does not name"
        raise DatasetError(what, source, "Name all values, or mend the label map.")
    values = np.array([renumbering[int(value)] for value in found], np.int64)
    write_label_map(target, values[inverse].reshape(image.array.shape[1:]), image.geometry)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except NotADirectoryError as error:
        raise StorageError("cannot be made", path.parent, "Choose a folder that you may write to.") from error


def unique_names(names: Iterable[str]) -> list[str]:
    """The names, a repeated one with a number."""
    taken: dict[str, int] = {}
    unique = []
    for name in names:
        taken[name] = taken.get(name, 0) + 1
        unique.append(name if taken[name] == 1 else f"{name} {taken[name]}")
    return unique
