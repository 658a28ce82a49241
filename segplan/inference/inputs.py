"""Which cases an `input=` means: a file, a folder, several of them, or a list in a .txt or .csv file."""

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from segplan.dataset import Case
from segplan.errors import ConfigError, ImageError
from segplan.imaging import IMAGE_ENDINGS, split_ending
from segplan.imaging.dicom import is_dicom
from segplan.inference.dicom_cases import dicom_cases

_CHANNEL = re.compile(r"(?P<identifier>.+)_(?P<channel>\d{4})", re.DOTALL)


def find_cases(inputs: str | Path | Sequence[str | Path], file_ending: str, num_channels: int) -> tuple[Case, ...]:
    """The cases that the user means, sorted by identifier; no image is opened.

    Files CASE_0000.ext, CASE_0001.ext ... of one folder are the channels of CASE. Any other file is a case of its own
    that holds all channels. In a folder, files of the model's own ending count; only if there are none, those of any
    known ending; only if there are none of these, DICOM series. A .txt file lists one path a line; a .csv file one case
    a row: its channel files, preceded by its name where the first row is a header that begins with `case`. Commas or
    semicolons separate them.

    Args:
        inputs: what the user gave.
        file_ending: of the images that the model was trained on.
        num_channels: that the model takes.

    Raises:
        ConfigError: nothing is there, no image is found, a case name is a path, or two cases have the same name.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    cases: list[Case] = []
    files: list[Path] = []
    for item in map(Path, given):
        if item.is_dir():
            found = _in_folder(item, file_ending)
            files += found
            cases += () if found else dicom_cases(item)
        elif item.suffix.lower() == ".csv" and item.is_file():
            cases += _from_csv(item)
        elif item.suffix.lower() == ".txt" and item.is_file():
            files += [item.parent / line.strip() for line in _text(item).splitlines() if line.strip()]
        elif not item.is_file() and is_dicom(item):  # FOLDER/SERIES_UID
            cases.append(Case(f"{item.absolute().parent.name}_{item.name}", (item,), None))
        elif item.is_file() or len(given) > 1:
            files += _with_other_channels(item, num_channels)
        else:
            raise ConfigError(
                "there is no such file or folder",
                f"input={item}",
                "Name an image, a folder of images or a list of them.",
            )
    cases += _grouped(files, num_channels)
    if not cases:
        remedy = f"Images may end in {', '.join(IMAGE_ENDINGS)}."
        raise ConfigError("holds no image", f"input={', '.join(map(str, given))}", remedy)
    _refuse_namesakes(cases)
    return tuple(sorted(cases, key=lambda case: case.identifier))


def input_hash(case: Case, further: Sequence[Path] = ()) -> str:
    """Changes when a file of the case is replaced: hash of the names, sizes and times of its files.

    Args:
        case: its images.
        further: files that its segmentation depends on too.
    """
    digest = hashlib.blake2b(digest_size=12)
    for path in (*case.images, *further):
        try:
            status = path.stat()
        except OSError:
            digest.update(b"missing")
            continue
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _in_folder(folder: Path, file_ending: str) -> list[Path]:
    visible = sorted(path for path in folder.iterdir() if path.name[0] != "." and path.is_file())
    known = [path for path in visible if _ending(path) is not None and path.suffix.lower() != ".dcm"]
    own = [path for path in known if path.name.lower().endswith(file_ending.lower())]
    return own or known


def _ending(path: Path) -> str | None:
    try:
        return split_ending(path.name)[1]
    except ImageError:
        return None


def _with_other_channels(path: Path, num_channels: int) -> list[Path]:
    """The file and, if it is the first channel of several, the other channels beside it."""
    ending = _ending(path) or ""
    match = _CHANNEL.fullmatch(path.name.removesuffix(ending))
    if num_channels == 1 or match is None or int(match["channel"]) != 0:
        return [path]
    others = (path.with_name(f"{match['identifier']}_{channel:04d}{ending}") for channel in range(1, num_channels))
    return [path, *(other for other in others if other.is_file())]


def _from_csv(path: Path) -> list[Case]:
    lines = _text(path).splitlines()
    # Spreadsheets of half the world's languages separate by semicolons.
    separator = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    reader = csv.reader(lines, delimiter=separator)
    stripped = [(reader.line_num, [cell.strip() for cell in row if cell.strip()]) for row in reader]
    rows = [(number, row) for number, row in stripped if row]
    named = bool(rows) and rows[0][1][0].lower() == "case"
    has_header = named or (bool(rows) and not _may_be_image(path.parent / rows[0][1][0]))
    cases = []
    for number, row in rows[1:] if has_header else rows:
        images = tuple(path.parent / cell for cell in (row[1:] if named else row))
        if not images:
            raise ConfigError(f"the row of case {row[0]} names no image", path, "Give case, image, image ...")
        name = row[0] if named else _stem(images[0])
        # The name becomes that of the label map, which must not leave the output folder, on any system.
        if name in (".", "..") or re.search(r"[/\\]", name):
            raise ConfigError(f"{name} is no case name", f"{path}, line {number}", "Give a name without / and \\.")
        cases.append(Case(name, images, None))
    return cases


def _may_be_image(path: Path) -> bool:
    return _ending(path) is not None or is_dicom(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the list cannot be read ({error})", path, "Save it as UTF-8 text.") from error


def _stem(path: Path) -> str:
    name = path.name.removesuffix(_ending(path) or path.suffix)
    return name.removesuffix("_0000") or name


def _grouped(files: Iterable[Path], num_channels: int) -> list[Case]:
    groups: dict[tuple[Path, str, str], dict[int, Path]] = {}
    alone: list[Path] = []
    for path in dict.fromkeys(files):
        ending = _ending(path) or path.suffix
        match = _CHANNEL.fullmatch(path.name.removesuffix(ending))
        if match is None:
            alone.append(path)
        else:
            groups.setdefault((path.parent, match["identifier"], ending), {})[int(match["channel"])] = path
    cases = []
    for (_, identifier, _), found in groups.items():
        if max(found) < num_channels:
            cases.append(Case(identifier, tuple(found[channel] for channel in sorted(found)), None))
        else:  # the numbers count something else, time points say
            alone += found.values()
    return cases + [Case(path.name.removesuffix(_ending(path) or path.suffix), (path,), None) for path in alone]


def _refuse_namesakes(cases: Iterable[Case]) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.identifier, case)
        if other is not case:
            raise ConfigError(
                f"two cases are named {case.identifier}: {other.images[0]} and {case.images[0]}",
                "input",
                "Predict them into different output folders.",
            )
