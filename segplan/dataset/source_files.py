"""The files that an image consists of: a series, a header with its data, a volume with its spacing."""

import os
import re
from pathlib import Path

from segplan.errors import ImageError
from segplan.imaging import atomic_write
from segplan.imaging.tiff import ENDINGS as TIFF_ENDINGS
from segplan.imaging.tiff import spacing_file

_DETACHED = ".mhd"
_LONGEST_HEADER = 1 << 16
_DATA = re.compile(rb"^ElementDataFile *= *(.+?)\s*$", re.MULTILINE)
_SKIPPED_BYTES = re.compile(rb"^HeaderSize *= *(?!0\s*$)", re.MULTILINE)


def files_of(path: Path) -> list[Path]:
    """`path`, and whatever else decides what is read from it, be it there or not.

    For a folder (a DICOM series) that is all in it; for a TIFF file the JSON file with its spacing; for a MetaImage
    header (.mhd) its data file.
    """
    if path.is_dir():
        return [path, *sorted(path.iterdir())]
    ending = path.suffix.lower()
    beside = spacing_file(path) if ending in TIFF_ENDINGS else _data_file(path) if ending == _DETACHED else None
    return [path] if beside is None else [path, beside]


def has_detached_data(path: Path) -> bool:
    """Whether the file is a MetaImage header whose voxels lie in another file."""
    return path.suffix.lower() == _DETACHED and _data_name(path) not in (None, b"LOCAL")


def join_detached(header: Path, target: Path) -> None:
    """Write a MetaImage header and its data file as one file; every byte of the voxels stays.

    Raises:
        ImageError: the voxels lie in several files, or somewhere within a file, or their file is not there.
        StorageError: the target cannot be written.
    """
    content = header.read_bytes()
    found, data = _DATA.search(content), _data_file(header)
    remedy = "Convert it to .mha or .nii.gz first."
    if found is None or data is None or _SKIPPED_BYTES.search(content):
        raise ImageError("its voxels are not the whole of one file", header, remedy)
    if not data.is_file():
        raise ImageError(f"its data file {data.name} does not exist", header, "Put it beside the header again.")
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        file.write(content[: found.start()] + b"ElementDataFile = LOCAL\n")
        file.write(data.read_bytes())


def _data_name(header: Path) -> bytes | None:
    try:
        with header.open("rb") as file:
            found = _DATA.search(file.read(_LONGEST_HEADER))
    except OSError:  # said when the image is read
        return None
    return None if found is None else found[1]


def _data_file(header: Path) -> Path | None:
    """The one file with the voxels; None where they lie in the header's file, or in several."""
    name = _data_name(header)
    if name is None or name == b"LOCAL" or name.startswith(b"LIST") or b"%" in name:
        return None
    return header.parent / os.fsdecode(name)
