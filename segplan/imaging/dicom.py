"""DICOM through SimpleITK (GDCM): a folder with one series, one series of a folder, or one file. Read only.

Slices are sorted by position, and what does not stack into one even grid is refused: ITK's own series reader stacks
missing, doubled, tilted and foreign slices without complaint. Each file is read by itself, because the rescaling of
intensities may differ between the slices of a series (PET).
"""

import contextlib
import locale
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segplan.errors import ImageError
from segplan.imaging import simpleitk
from segplan.imaging.image import Geometry, Image, spacing_zyx

ENDINGS = {".dcm": ".nii.gz"}
_MAGIC = (128, b"DICM")
_HEAD = 1 << 14  # bytes in which the modality of a file stands
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_NO_PICTURE = {b"SR", b"PR", b"KO", b"RTSTRUCT", b"RTPLAN", b"RTRECORD", b"REG", b"DOC"}
_FILMS = {"US", "XA", "RF", "ES", "IVUS", "XC"}  # whose frames are moments, not slices
_STACKED = {"CT", "MR", "PT"}
_EVEN = 0.05  # largest deviation of one slice distance from the median, as a share of it
_SAME = 1e-4  # rounding of orientations and pixel spacings within a series
_LARGEST_DRIFT = 0.25  # pixels that the stack may lean to a side
_FEWEST_MM = 1e-3
_MOST_SERIES_SHOWN = 5


def is_dicom(path: Path) -> bool:
    """Whether a path without a known ending can be read here: a folder, FOLDER/SERIES_UID, or a file by its content."""
    if path.is_dir():
        return True
    if path.is_file():
        return _has_magic(path)
    return _UID.fullmatch(path.name) is not None and path.parent.is_dir()


def read_image(path: Path) -> Image:
    """Read a series or a file: intensities as the file's rescale slope and intercept give them (HU for CT).

    Args:
        path: a folder that holds one series, FOLDER/SERIES_UID for one of several, or a file. A file is read alone: its
            frames are slices; without a position in the patient it is a 2D image.

    Raises:
        ImageError: there is no series or more than one, a file is damaged, or the slices form no even grid.
    """
    if path.is_file():
        return _read_file(path)
    series = find_series(path if path.is_dir() else path.parent)
    if not path.is_dir():
        series = {uid: files for uid, files in series.items() if uid == path.name}
    if not series:
        raise ImageError("there is no DICOM series", path, "Name the folder that holds the .dcm files themselves.")
    if len(series) > 1:
        shown = [f"{uid} ({_described(files)})" for uid, files in list(series.items())[:_MOST_SERIES_SHOWN]]
        more = len(series) - len(shown)
        what = f"it holds {len(series)} series: {', '.join(shown)}{f' and {more} more' if more else ''}"
        raise ImageError(what, path, "Name one as FOLDER/SERIES_UID, or give each a folder of its own.")
    return _stack(next(iter(series.values())), path)


read_labels = read_image


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """DICOM is not written.

    Raises:
        ImageError: always.
    """
    raise ImageError("DICOM is not written", path, "Write .nii.gz, and convert it with dcmqi where DICOM is needed.")


@dataclass(frozen=True)
class Slice:
    """One file of a series whose header was read."""

    path: Path
    reader: Any

    def tag(self, key: str) -> str:
        """The value of a tag such as "0008|0060", "" where there is none."""
        return str(self.reader.GetMetaData(key)).strip() if self.reader.HasMetaDataKey(key) else ""

    @property
    def grid(self) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
        """Size, pixel spacing and orientation of its plane."""
        return self.reader.GetSize()[:2], self.reader.GetSpacing()[:2], self.reader.GetDirection()


def find_series(folder: Path) -> dict[str, list[Slice]]:
    """The series in a folder (not in folders within), by their UID.

    Raises:
        ImageError: the header of a DICOM file cannot be read.
    """
    series: dict[str, list[Slice]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file() or not _has_magic(path):
            continue
        if _modality_bytes(path) not in _NO_PICTURE:
            opened = _open(path)
            series.setdefault(opened.tag("0020|000e") or "unknown", []).append(opened)
    return series


def _read_file(path: Path) -> Image:
    opened = _open(path)
    modality, frames = opened.tag("0008|0060"), int(opened.reader.GetSize()[2])
    if modality == "SEG":
        what = "DICOM segmentation objects are not read"
        raise ImageError(what, path, "Convert it to .nii.gz with dcmqi's segimage2itkimage.")
    if frames > 1 and modality in _FILMS:
        raise ImageError(f"its {frames} frames are a film, not slices", path, "Save the frames as 2D images.")
    if frames == 1 and modality in _STACKED and (other := _neighbour(opened)) is not None:
        what = f"it is one slice of a series ({other.name} is another)"
        raise ImageError(what, path, "Name the folder for the whole series, or copy the slice into one of its own.")
    if frames == 1:
        return _stack([opened], path)
    voxels = _voxels(opened)
    geometry = simpleitk.geometry_of(opened.reader)
    return Image(np.moveaxis(voxels, -1, 0), spacing_zyx(geometry), geometry)


def _stack(slices: Sequence[Slice], where: Path) -> Image:
    """One image of the single-frame files of one series."""
    if len(slices) == 1 and slices[0].reader.GetSize()[2] > 1:
        return _read_file(slices[0].path)
    _check_planes(slices)
    placed = all(opened.tag("0020|0032") for opened in slices)
    if not placed and len(slices) > 1:
        what = "its files do not say where they lie (Image Position Patient), so they do not stack"
        raise ImageError(what, where, "Name one file, or convert the series with a tool of the scanner's vendor.")
    geometry, ordered = _grid(slices, where) if placed else (_flat(slices[0]), list(slices))
    array = np.stack([_voxels(opened)[0] for opened in ordered])
    return Image(np.moveaxis(array, -1, 0), spacing_zyx(geometry), geometry)


def _check_planes(slices: Sequence[Slice]) -> None:
    first = slices[0]
    size, spacing, direction = first.grid
    for opened in slices[1:]:
        other_size, other_spacing, other_direction = opened.grid
        differing = {
            "size": other_size != size,
            "pixel spacing": not np.allclose(other_spacing, spacing, rtol=_SAME, atol=0),
            "orientation": not np.allclose(other_direction, direction, atol=_SAME),
            "number of frames": opened.reader.GetSize()[2] != first.reader.GetSize()[2],
        }
        wrong = [name for name, differs in differing.items() if differs]
        if wrong:
            what = f"its {' and '.join(wrong)} differ from {first.path.name} of the same series"
            raise ImageError(what, opened.path, "Move it out of the folder if it is an overview image (localizer).")
    if len(slices) > 1 and first.reader.GetSize()[2] > 1:
        raise ImageError("the series has several files of several frames", first.path, "Name one of the files.")


def _grid(slices: Sequence[Slice], where: Path) -> tuple[Geometry, list[Slice]]:
    """The geometry of slices with a position, and the slices sorted along their normal."""
    direction = np.array(slices[0].reader.GetDirection()).reshape(3, 3)
    normal = direction[:, 2]
    ordered = sorted(slices, key=lambda opened: float(np.dot(opened.reader.GetOrigin(), normal)))
    positions = np.array([opened.reader.GetOrigin() for opened in ordered])
    in_plane = tuple(float(value) for value in ordered[0].reader.GetSpacing()[:2])
    if len(ordered) == 1:
        distance = _thickness(ordered[0])
    else:
        _check_distances(positions @ normal, ordered, where)
        distance = float((positions[-1] - positions[0]) @ normal) / (len(ordered) - 1)
        lean = positions - positions[0] - np.outer((positions - positions[0]) @ normal, normal)
        drift = float(np.linalg.norm(lean, axis=1).max())
        if drift > _LARGEST_DRIFT * min(in_plane):
            angle = math.degrees(math.atan2(drift, distance * (len(ordered) - 1)))
            what = f"its slices are stacked at a slant of {angle:.1f} degrees (gantry tilt)"
            raise ImageError(what, where, "Resample it to a rectangular grid (dcm2niix does), and use that file.")
    return Geometry(3, (*in_plane, distance), tuple(positions[0].tolist()), tuple(direction.ravel().tolist())), ordered


def _check_distances(heights: np.ndarray, ordered: Sequence[Slice], where: Path) -> None:
    """Raise unless sorted heights (N,) in mm are even."""
    gaps = np.diff(heights)
    median = float(np.median(gaps))
    closest = int(np.argmin(gaps))
    if gaps[closest] < _FEWEST_MM:
        names = " and ".join(opened.path.name for opened in ordered[closest : closest + 2])
        what = f"{names} lie at the same place: several time points, echoes or copies"
        raise ImageError(what, where, "Give each time point or echo a folder of its own.")
    odd = np.abs(gaps - median) > _EVEN * median
    if not odd.any():
        return
    number = int(np.argmax(odd))
    multiple = gaps[odd] / median
    if (np.abs(multiple - np.rint(multiple)) < _EVEN * multiple).all() and (np.rint(multiple) > 1).all():
        missing = int((np.rint(multiple) - 1).sum())
        after = ordered[number].path.name
        raise ImageError(f"{missing} slices are missing, the first after {after}", where, "Export the series again.")
    what = f"its slice distances are uneven ({gaps.min():g} to {gaps.max():g} mm)"
    raise ImageError(what, where, "Resample it to even distances, or export it again.")


def _flat(opened: Slice) -> Geometry:
    """The geometry of a radiograph: pixels with a size, nowhere in the patient."""
    spacing = tuple(float(value) for value in opened.reader.GetSpacing()[:2])
    return Geometry(2, spacing, (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))


def _thickness(opened: Slice) -> float:
    """The slice distance of a slice that is alone: the distance or thickness that its header tells, else 1 mm."""
    for key in ("0018|0088", "0018|0050"):
        try:
            value = abs(float(opened.tag(key)))
        except ValueError:
            continue
        if value > 0 and math.isfinite(value):
            return value
    return 1.0


def _open(path: Path) -> Slice:
    with _locale_kept():
        return Slice(path, simpleitk.open_file(path, "GDCMImageIO"))


def _voxels(opened: Slice) -> np.ndarray:
    """(Z, Y, X, C)."""
    with _locale_kept():
        voxels = simpleitk.read_voxels(opened.reader, opened.path)
    return voxels if voxels.ndim == 4 else voxels[None]


@contextlib.contextmanager
def _locale_kept() -> Iterator[None]:
    """GDCM sets the process's locale to C: from then on, Python would take text files for ASCII."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def _neighbour(opened: Slice) -> Path | None:
    """The file beside it in the listing, if it is of the same series."""
    listed = sorted(path for path in opened.path.parent.iterdir() if path.suffix == opened.path.suffix)
    place = listed.index(opened.path)
    for other in (*listed[place + 1 : place + 2], *listed[max(0, place - 1) : place]):
        if other.is_file() and _has_magic(other) and _modality_bytes(other) not in _NO_PICTURE:
            series = opened.tag("0020|000e")
            if series and _open(other).tag("0020|000e") == series:
                return other
    return None


def _described(files: Sequence[Slice]) -> str:
    first = files[0]
    words = [first.tag("0008|0060"), first.tag("0008|103e"), f"{len(files)} file{'s' if len(files) > 1 else ''}"]
    return ", ".join(word for word in words if word)


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_MAGIC[0] + len(_MAGIC[1]))
    return head[_MAGIC[0] :] == _MAGIC[1]


def _modality_bytes(path: Path) -> bytes:
    """The modality by a plain search for its tag: GDCM opens no file without a picture."""
    with path.open("rb") as file:
        found = re.search(rb"\x08\x00\x60\x00(?:CS..|....)([A-Z ]+)", file.read(_HEAD), re.DOTALL)
    return b"" if found is None else found[1].strip()
