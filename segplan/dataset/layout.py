"""nnU-Net's raw layout: which files make up which case, and what is wrong with them before any is opened."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segplan.dataset.description import Description, known_ending, read_description
from segplan.errors import DatasetError, Problem, VerificationError

_DICOM = ".dcm"  # a case of this ending may be a folder with the files of one series
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}")
_MEND_PATH = "Mend the path under dataset in dataset.json."
_CHANNEL = re.compile(r"(?P<identifier>.+)_(?P<channel>\d{4})", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """The files of one case; `images` in the order of the channels, `label` None where there is none (prediction)."""

    identifier: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset whose layout is sound; `cases` sorted, or in the order of an explicit "dataset" key."""

    folder: Path
    name: str
    description: Description
    cases: tuple[Case, ...]


def open_dataset(folder: Path) -> RawDataset:
    """Find the cases of a raw dataset and check the layout; no image is opened.

    Raises:
        DatasetError: dataset.json is missing or wrong.
        VerificationError: the layout is wrong; with all problems.
    """
    dataset, problems = scan_dataset(folder)
    if problems:
        raise VerificationError(problems, dataset.folder)
    return dataset


def scan_dataset(folder: Path) -> tuple[RawDataset, list[Problem]]:
    """As `open_dataset`, but problems of the layout are returned beside the cases that can be opened all the same.

    Raises:
        DatasetError: dataset.json is missing or wrong.
    """
    folder = folder.absolute()
    description = read_description(folder)
    listed = description.raw.get("dataset")
    if listed is None:
        cases, problems = _cases_in_folders(folder, description)
    else:
        cases, problems = _cases_listed(folder, description, listed)
    if not cases and not problems:
        problems.append(Problem(None, "the dataset has no cases", "List some under dataset in dataset.json."))
    if cases and len(cases) != description.num_training:
        what = f"numTraining in dataset.json is {description.num_training}, the dataset has {len(cases)} cases"
        problems.append(Problem(None, what, f"Set it to {len(cases)}, or restore the missing cases."))
    return RawDataset(folder, folder.name, description, tuple(cases)), problems


def cases_in_folder(folder: Path, file_ending: str, num_channels: int) -> tuple[Case, ...]:
    """Group the files CASE_0000.ext, CASE_0001.ext, … of a folder into cases without labels, sorted.

    One file a case is accepted whatever `num_channels` is, where all cases have one: it may hold all channels.

    Raises:
        DatasetError: there is no such folder, or no case in it.
        VerificationError: channel files are missing or misnamed; with all problems.
    """
    if not folder.is_dir():
        raise DatasetError("there is no such folder", folder, "Name the folder that holds the images.")
    images, problems = _images(folder, file_ending, num_channels)
    if problems:
        raise VerificationError(problems, folder)
    if not images:
        remedy = f"Images must be named CASE_0000{file_ending}; the model was trained on {file_ending} files."
        raise DatasetError(f"no {file_ending} image", folder, remedy)
    return tuple(Case(identifier, paths, None) for identifier, paths in images.items())


def _cases_in_folders(folder: Path, description: Description) -> tuple[list[Case], list[Problem]]:
    """Cases of imagesTr and labelsTr."""
    absent = [name for name in ("imagesTr", "labelsTr") if not (folder / name).is_dir()]
    if absent:
        files = {"imagesTr": f"CASE_0000{description.file_ending}", "labelsTr": f"CASE{description.label_ending}"}
        return [], [
            Problem(None, f"there is no folder {name}", f"Make it, with files {files[name]}.") for name in absent
        ]
    images, problems = _images(folder / "imagesTr", description.file_ending, len(description.channel_names))
    if not images and not problems:
        return [], [_no_images(folder / "imagesTr", description.file_ending)]
    ending = description.label_ending
    labels = {name.removesuffix(ending): folder / "labelsTr" / name for name in _names(folder / "labelsTr", ending)}
    unlabelled = [
        Problem(
            identifier,
            "the image has no label map",
            f"Add labelsTr/{identifier}{ending}, or move the image to imagesTs.",
        )
        for identifier in images
        if identifier not in labels
    ]
    orphans = [
        Problem(
            identifier,
            "the label map has no image",
            f"Add imagesTr/{identifier}_0000{description.file_ending}, or remove the label map.",
        )
        for identifier in sorted(labels)
        if identifier not in images
    ]
    cases = [Case(identifier, paths, labels.get(identifier)) for identifier, paths in images.items()]
    return cases, [*problems, *unlabelled, *orphans]


def _no_images(folder: Path, ending: str) -> Problem:
    others = Counter(name_ending for name in _names(folder, "") if (name_ending := known_ending(name)) is not None)
    what = f"{folder.name} holds no {ending} image"
    if not others:
        return Problem(None, what, f"Put images named CASE_0000{ending} into it.")
    other, count = others.most_common(1)[0]
    return Problem(None, f"{what}, but {count} that end in {other}", f'Set file_ending to "{other}" in dataset.json.')


def _images(folder: Path, ending: str, num_channels: int) -> tuple[dict[str, tuple[Path, ...]], list[Problem]]:
    """Image files by case, sorted by case and channel, and what is wrong with their names and numbers."""
    found: dict[str, dict[int, Path]] = {}
    problems = []
    names = _names(folder, ending, folders=ending.lower() == _DICOM)
    numbered = any(_CHANNEL.fullmatch(name.removesuffix(ending)) for name in names)
    for name in names:
        match = _CHANNEL.fullmatch(name.removesuffix(ending))
        if match is None and num_channels > 1 and not numbered:  # every file holds all channels
            found[name.removesuffix(ending)] = {0: folder / name}
        elif match is None:
            stem = name.removesuffix(ending)
            remedy = f"Name the file of the first channel {stem}_0000{ending}."
            problems.append(Problem(None, f"{folder.name}/{name} has no channel number", remedy))
        else:
            found.setdefault(match["identifier"], {})[int(match["channel"])] = folder / name
    # Where no case has a file for every channel, one file may hold several (RGB, 4D); reading it will tell.
    expected = min(num_channels, max(map(len, found.values()), default=0))
    for identifier in sorted(found):
        problems += _channel_problems(identifier, found[identifier], expected, num_channels, ending)
    images = {key: tuple(found[key][channel] for channel in sorted(found[key])) for key in sorted(found)}
    return images, problems


def _channel_problems(
    identifier: str, files: Mapping[int, Path], expected: int, num_channels: int, ending: str
) -> list[Problem]:
    missing = [channel for channel in range(expected) if channel not in files]
    surplus = [channel for channel in sorted(files) if channel >= expected]
    problems = []
    if missing:
        names = ", ".join(f"{identifier}_{channel:04d}{ending}" for channel in missing)
        what = f"channel file {names} is missing"
        problems.append(Problem(identifier, what, "Add it, or leave the whole case out."))
    if surplus:
        names = ", ".join(files[channel].name for channel in surplus)
        what = f"{names}: channel numbers go from 0000 to {expected - 1:04d}, dataset.json names {num_channels}"
        problems.append(Problem(identifier, what, "Renumber or remove the file, or name the channel in channel_names."))
    return problems


def _names(folder: Path, ending: str, *, folders: bool = False) -> list[str]:
    """Names in a folder with that ending, by one listing; hidden files (macOS's, unfinished ones) are not data.

    With `folders`, those of folders too, whatever they end in: a DICOM series is one.
    """
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if entry.name[0] != "."]
        return sorted(entry.name for entry in visible if entry.name.endswith(ending) or (folders and entry.is_dir()))


def _cases_listed(folder: Path, description: Description, listed: Any) -> tuple[list[Case], list[Problem]]:
    """Cases of the explicit "dataset" key: {case: {"images": [...], "label": ...}}."""
    if not isinstance(listed, Mapping):
        remedy = 'Write {"case": {"images": ["path"], "label": "path"}}.'
        raise DatasetError("the key dataset is no JSON object", folder / "dataset.json", remedy)
    counts = [len(entry["images"]) for entry in listed.values() if _is_entry(entry)]
    expected = min(len(description.channel_names), max(counts, default=0))
    cases, problems = [], []
    for identifier, entry in listed.items():
        if not _is_entry(entry):
            remedy = 'Write {"images": ["path"], "label": "path"}.'
            problems.append(Problem(identifier, "its entry under dataset lacks images or label", remedy))
            continue
        if not identifier or "/" in identifier or "\\" in identifier or identifier.startswith("."):
            what = f'"{identifier}" under dataset cannot be the name of a file'
            problems.append(Problem(identifier, what, "Name the case without slashes and without a leading dot."))
            continue
        case = Case(identifier, tuple(_resolve(folder, entry["images"])), *_resolve(folder, [entry["label"]]))
        cases.append(case)
        problems += _listed_problems(case, expected)
    return cases, problems


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("images"), list):
        return False
    return all(isinstance(path, str) for path in [*entry["images"], entry.get("label")])


def _resolve(folder: Path, paths: Iterable[str]) -> list[Path]:
    """Environment variables expanded; relative paths are relative to the dataset's folder."""
    return [folder / os.path.expandvars(path) for path in paths]


def _listed_problems(case: Case, expected: int) -> list[Problem]:
    problems = []
    if len(case.images) != expected or not case.images:
        what = f"{len(case.images)} images are listed, {max(expected, 1)} expected"
        problems.append(Problem(case.identifier, what, "List one file a channel under dataset in dataset.json."))
    for role, paths in (("image", case.images), ("label map", (case.label,))):
        for path in paths:
            if path is not None and not path.exists():
                what = f"the {role} {path} does not exist"
                unset = _VARIABLE.search(str(path))  # a variable that is set has been replaced
                remedy = f"Set the environment variable {unset[0].strip('${}')}." if unset else _MEND_PATH
                problems.append(Problem(case.identifier, what, remedy))
    return problems
