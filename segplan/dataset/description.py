"""dataset.json: what a raw dataset says about itself."""

import functools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segplan.dataset.labels import Labels
from segplan.errors import DatasetError, ImageError
from segplan.imaging import IMAGE_ENDINGS, label_ending_for, split_ending

_REQUIRED = {
    "channel_names": '{"0": "CT"}',
    "labels": '{"background": 0, "liver": 1}',
    "numTraining": "the number of training cases",
    "file_ending": '".nii.gz"',
}


@dataclass(frozen=True)
class Description:
    """The content of dataset.json, checked.

    Attributes:
        name: "name" in dataset.json, else the folder's name.
        channel_names: in the order of the channel numbers.
        labels: names, values, regions, ignore.
        file_ending: of the images, with the dot.
        label_ending: of the label maps; the images' one unless labelsTr or the key "label_ending" says otherwise.
        num_training: "numTraining"; it takes part in the batch size.
        raw: the parsed file.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: Labels
    file_ending: str
    label_ending: str
    num_training: int
    raw: Mapping[str, Any]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], where: Path, label_ending: str | None = None) -> "Description":
        """Check the content of a dataset.json.

        Args:
            raw: the parsed file.
            where: the file, for error messages; its folder's name serves where there is no "name".
            label_ending: found in labelsTr; the key "label_ending" comes before it.

        Raises:
            DatasetError: a key is missing or has a value that cannot work.
        """
        if "channel_names" not in raw and "modality" in raw:  # the older name of the key
            raw = {**raw, "channel_names": raw["modality"]}
        missing = [key for key in _REQUIRED if key not in raw]
        if missing:
            examples = ", ".join(f'"{key}": {_REQUIRED[key]}' for key in missing)
            raise DatasetError(f"missing key {' and '.join(missing)}", where, f"Add {examples}.")
        file_ending = _ending(raw, "file_ending", where)
        if "label_ending" in raw:
            label_ending = _ending(raw, "label_ending", where)
        count = raw["numTraining"]
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise DatasetError(f"numTraining is {count!r}", where, "Give the number of training cases.")
        try:
            labels = Labels.from_json(raw)
        except DatasetError as error:  # the same finding, with the whole path
            key = str(error.where).removeprefix("dataset.json, ")
            raise DatasetError(error.what, f"{where}, {key}", error.remedy) from error
        return cls(
            name=str(raw.get("name") or where.absolute().parent.name),
            channel_names=_channel_names(raw["channel_names"], where),
            labels=labels,
            file_ending=file_ending,
            label_ending=label_ending or label_ending_for(file_ending),
            num_training=count,
            raw=raw,
        )


def read_description(folder: Path) -> Description:
    """Read dataset.json of a raw dataset.

    Raises:
        DatasetError: the file is missing, is no JSON, or says something that cannot work.
    """
    path = folder / "dataset.json"
    raw = _parse(path)
    return Description.from_json(raw, path, _found_label_ending(folder, raw))


def known_ending(name: str) -> str | None:
    """The image ending of a file name; None for hidden files and for those that are no image."""
    try:
        return None if name.startswith(".") else split_ending(name)[1]
    except ImageError:
        return None


def _parse(path: Path) -> Mapping[str, Any]:
    if not path.parent.is_dir():
        raise DatasetError("there is no such folder", path.parent, "Name the folder that holds dataset.json.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=functools.partial(_unique, path))
    except FileNotFoundError as error:
        remedy = "Name the folder that holds dataset.json, imagesTr and labelsTr, or write the file."
        raise DatasetError("there is no dataset.json", path.parent, remedy) from error
    except json.JSONDecodeError as error:
        what = f"it is no valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise DatasetError(what, path, "Mend that line; a missing or extra comma is the usual cause.") from error
    except UnicodeDecodeError as error:
        raise DatasetError("it is not UTF-8 text", path, "Save it as UTF-8.") from error
    except OSError as error:
        raise DatasetError(f"it cannot be opened ({error.strerror})", path, "Check its permissions.") from error
    if not isinstance(raw, dict):
        raise DatasetError("it holds no JSON object", path, "Its outermost brackets must be { }.")
    return raw


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that stands twice, JSON itself would keep the last without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise DatasetError(f'the key "{twice}" stands twice in one place', path, "Take one of them out, or rename it.")
    return content


def _ending(raw: Mapping[str, Any], key: str, where: Path) -> str:
    ending = raw[key]
    if not isinstance(ending, str) or ending.lower() not in IMAGE_ENDINGS:
        remedy = f"Known endings, each with its dot: {', '.join(IMAGE_ENDINGS)}."
        raise DatasetError(f"{key} is {ending!r}", where, remedy)
    return ending


def _channel_names(names: Any, where: Path) -> tuple[str, ...]:
    remedy = 'Write {"0": "first channel", "1": "second channel", …}, numbered from 0 without a gap.'
    if not isinstance(names, Mapping) or not names:
        raise DatasetError("channel_names is no JSON object with channels", where, remedy)
    numbers = {int(key): str(name) for key, name in names.items() if str(key).isdigit()}
    if sorted(numbers) != list(range(len(names))):
        raise DatasetError(f"channel_names has the keys {', '.join(map(str, names))}", where, remedy)
    return tuple(numbers[number] for number in range(len(numbers)))


def _found_label_ending(folder: Path, raw: Mapping[str, Any]) -> str | None:
    """The ending of the label maps: the images' one if any label map has it, else the commonest in labelsTr."""
    listed = raw.get("dataset")
    if isinstance(listed, Mapping):
        names = [str(entry["label"]) for entry in listed.values() if isinstance(entry, Mapping) and "label" in entry]
    else:
        labels = folder / "labelsTr"
        names = [path.name for path in labels.iterdir()] if labels.is_dir() else []
    endings = Counter(ending for name in names if (ending := known_ending(name)) is not None)
    if not endings or raw.get("file_ending") in endings:
        return None
    return endings.most_common(1)[0][0]
