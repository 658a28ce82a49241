"""Which cases a folder of DICOM holds: each series is one, whatever its files are called."""

from pathlib import Path

from segplan.dataset import Case
from segplan.imaging.dicom import find_series


def dicom_cases(folder: Path) -> tuple[Case, ...]:
    """The DICOM cases in a folder and in the folders directly within it.

    A series of several files is named after its folder, with its UID where the folder holds more than one; a series of
    one file after the file. Folders CASE_0000, CASE_0001 ... are the channels of CASE only where a dataset or a list
    says so.

    Raises:
        ImageError: the header of a DICOM file cannot be read.
    """
    cases = _in_one(folder)
    for within in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        cases += _in_one(within)
    return tuple(cases)


def _in_one(folder: Path) -> list[Case]:
    series = find_series(folder)
    several = sum(len(files) > 1 for files in series.values()) > 1
    cases = []
    for uid, files in series.items():
        if len(files) == 1:
            image = files[0].path
            name = image.name.removesuffix(image.suffix) if image.suffix.lower() == ".dcm" else image.name
        else:
            image = folder if len(series) == 1 else folder / uid
            name = f"{folder.absolute().name}_{uid}" if several else folder.absolute().name
        cases.append(Case(name.removesuffix("_0000") or name, (image,), None))
    return cases
