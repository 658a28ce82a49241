"""The layout of the Medical Segmentation Decathlon: files listed in dataset.json, channels as the fourth dimension."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from segplan.dataset.conversion import CaseSource, unique_names
from segplan.dataset.volumes import volume_count
from segplan.errors import DatasetError, ImageError, Problem
from segplan.imaging import split_ending

_TASK = re.compile(r"Task(?P<number>\d+)_(?P<name>.+)", re.DOTALL)
_DATASET = re.compile(r"Dataset\d+_.+", re.DOTALL)
_KEPT = ("description", "reference", "licence", "license", "release")
_MISSING = "Download the task again, or take the entry out of dataset.json."


@dataclass(frozen=True)
class Decathlon:
    """A task: its cases, and the dataset.json that they get here."""

    cases: tuple[CaseSource, ...]
    description: Mapping[str, Any]
    problems: tuple[Problem, ...]


def read_decathlon(source: Path) -> Decathlon:
    """Read the dataset.json of a task and look at the head of every file that it lists.

    Raises:
        DatasetError: the folder is no task, or its dataset.json says something that cannot work.
    """
    raw = _parse(source)
    channels = _channels(raw.get("modality", raw.get("channel_names")), source)
    labels = _labels(raw.get("labels"), source)
    cases: list[CaseSource] = []
    problems: list[Problem] = []
    for entry in _entries(raw, "training", source):
        _add(source, entry, len(channels), cases, problems, test=False)
    training = len(cases)
    for entry in _entries(raw, "test", source):
        _add(source, entry, len(channels), cases, problems, test=True)
    if not training and not problems:
        raise DatasetError("training in dataset.json lists no case", source, "Is this the folder of a Decathlon task?")
    match = _TASK.fullmatch(source.name)
    description = {
        "name": str(raw.get("name") or (match["name"] if match else source.name)),
        **{key: raw[key] for key in _KEPT if key in raw},
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": labels,
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    return Decathlon(tuple(cases), description, tuple(problems))


def dataset_folder(source: Path, out: Path) -> Path:
    """`out` where it is named like a dataset (Dataset004_Hippocampus), else such a folder in it, named after the task.

    Raises:
        DatasetError: neither has a name that says what the dataset is called.
    """
    if _DATASET.fullmatch(out.name):
        return out
    match = _TASK.fullmatch(source.name)
    if match is None:
        remedy = "Give the new dataset's folder itself, such as Dataset004_Hippocampus."
        raise DatasetError(f"{source.name} is not named like a task (Task04_Hippocampus)", source, remedy)
    return out / f"Dataset{int(match['number']):03d}_{match['name']}"


def _parse(source: Path) -> Mapping[str, Any]:
    path = source / "dataset.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        remedy = "Name the folder of a Decathlon task: it holds dataset.json, imagesTr and labelsTr."
        raise DatasetError("there is no dataset.json that can be read", source, remedy) from error
    except ValueError as error:
        raise DatasetError(f"it is no valid JSON ({error})", path, "Download it again, or mend it.") from error
    if not isinstance(raw, dict):
        raise DatasetError("it holds no JSON object", path, "Download it again, or mend it.")
    return raw


def _channels(modality: Any, source: Path) -> list[str]:
    numbers = _by_number(modality)
    if not numbers or sorted(numbers) != list(range(len(numbers))):
        remedy = 'It must be {"0": "MRI", "1": …}, numbered from 0 without a gap.'
        raise DatasetError(f"modality is {json.dumps(modality)}", source / "dataset.json", remedy)
    return [numbers[number] for number in sorted(numbers)]


def _labels(labels: Any, source: Path) -> dict[str, int]:
    """Names with their values, ascending, from {"1": "liver"} or {"liver": 1}."""
    numbers = _by_number(labels)
    if not numbers:
        remedy = 'It must be {"0": "background", "1": "liver", …}.'
        raise DatasetError(f"labels is {json.dumps(labels)}", source / "dataset.json", remedy)
    values = sorted({0, *numbers})
    names = unique_names(["background", *(numbers[value] for value in values if value != 0)])
    return dict(zip(names, values, strict=True))


def _by_number(content: Any) -> dict[int, str]:
    if not isinstance(content, Mapping):
        return {}
    if all(str(key).isdigit() and isinstance(name, str) for key, name in content.items()):
        return {int(key): name for key, name in content.items()}
    if any(str(key).isdigit() or not _is_value(value) for key, value in content.items()):
        return {}
    return {value: str(name) for name, value in content.items()}


def _is_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entries(raw: Mapping[str, Any], key: str, source: Path) -> list[tuple[str, str | None]]:
    """Paths of image and label map of every listed case; macOS's shadow files (._name) are none."""
    listed = raw.get(key) or []
    entries = []
    for entry in listed if isinstance(listed, list) else []:
        image = entry.get("image") if isinstance(entry, Mapping) else entry
        label = entry.get("label") if isinstance(entry, Mapping) else None
        if not isinstance(image, str) or not (label is None or isinstance(label, str)):
            what = f"{key} lists {json.dumps(entry)}"
            raise DatasetError(what, source / "dataset.json", 'An entry is {"image": path, "label": path}.')
        if not PurePosixPath(image).name.startswith("._"):
            entries.append((image, label))
    return entries


def _add(
    source: Path,
    entry: tuple[str, str | None],
    channels: int,
    cases: list[CaseSource],
    problems: list[Problem],
    *,
    test: bool,
) -> None:
    """Add a listed case to `cases`, or what is wrong with it to `problems`."""
    image = source / entry[0]
    label = None if entry[1] is None else source / entry[1]
    try:
        identifier = split_ending(image.name)[0]
        if any(case.identifier == identifier and case.test == test for case in cases):
            problems.append(Problem(identifier, "it is listed twice", "Take one entry out of dataset.json."))
            return
        if not test and label is None:
            problems.append(Problem(identifier, "it has no label map", "Add it to dataset.json, under label."))
            return
        if label is not None and not label.is_file():
            problems.append(Problem(identifier, f"the label map {entry[1]} does not exist", _MISSING))
            return
        volumes = volume_count(image)
    except ImageError as error:
        problems.append(Problem(entry[0], f"{error.what}", error.remedy or _MISSING))
        return
    if (volumes or 1) != channels:
        what = f"the image has {volumes or 1} channels, modality in dataset.json names {channels}"
        problems.append(Problem(identifier, what, "Mend modality, or leave the case out."))
        return
    cases.append(CaseSource(identifier, (image,), label, volumes, test))
