"""NRRD: read through SimpleITK; label maps are written here, because ITK rounds the directions at each round trip."""

import gzip
import re
from pathlib import Path

import numpy as np

from segplan.imaging import simpleitk
from segplan.imaging.image import Geometry, Image, direction_matrix
from segplan.imaging.storage import atomic_write

ENDINGS = {".nrrd": ".nrrd"}
_FORMAT_NAME = "nrrd"
_COMPRESSION_LEVEL = 6
_LONGEST_HEADER = 1 << 16
_TYPES = {"u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64"} | {
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
}


def read_image(path: Path) -> Image:
    """Read one file with the pixel type that it has; vector pixels and a 4th axis become channels.

    Raises:
        ImageError: the file is truncated, damaged or of no usable kind.
    """
    reader = simpleitk.open_file(path, "NrrdImageIO")
    dimension = min(3, reader.GetDimension())
    return simpleitk.read_opened(reader, path, _orientation_lines(path, dimension))


read_labels = read_image


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map (Z, Y, X) of an integer type, gzipped; the same labels give the same bytes.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    shape = labels.shape[::-1][: geometry.dimension]
    lines = [
        "NRRD0004",
        f"type: {_TYPES[labels.dtype.str[1:]]}",
        f"dimension: {len(shape)}",
        geometry.header_of(_FORMAT_NAME) or _lines_of(geometry),
        f"sizes: {' '.join(map(str, shape))}",
        f"kinds: {' '.join(['domain'] * len(shape))}",
        "endian: little",
        "encoding: gzip",
    ]
    voxels = labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes()
    packed = gzip.compress(voxels, compresslevel=_COMPRESSION_LEVEL, mtime=0)
    with atomic_write(path) as temporary:
        temporary.write_bytes("\n".join(lines).encode() + b"\n\n" + packed)


def _orientation_lines(path: Path, dimension: int) -> str | None:
    """The header's lines about space as they stand, for `Geometry.header`; None where they are not about these axes."""
    with path.open("rb") as file:
        text = file.read(_LONGEST_HEADER).replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode("latin-1")
    fields = dict(re.findall(r"^(space(?: dimension| directions| origin)?):\s*(.+?)\s*$", text, re.MULTILINE))
    vectors = re.findall(r"\([^)]*\)", fields.get("space directions", ""))
    origin = fields.get("space origin", "")
    complete = ("space" in fields) != ("space dimension" in fields) and origin
    fits = all(vector.count(",") == dimension - 1 for vector in [*vectors, origin])
    if not complete or len(vectors) != dimension or not fits:
        return None
    first = f"space: {fields['space']}" if "space" in fields else f"space dimension: {fields['space dimension']}"
    lines = "\n".join((first, f"space directions: {' '.join(vectors)}", f"space origin: {origin}"))
    return f"{_FORMAT_NAME}:{lines}"


def _lines_of(geometry: Geometry) -> str:
    columns = (direction_matrix(geometry) * geometry.spacing).T
    space = "space: left-posterior-superior" if geometry.dimension == 3 else "space dimension: 2"
    directions = " ".join(_vector(column.tolist()) for column in columns)
    return "\n".join((space, f"space directions: {directions}", f"space origin: {_vector(geometry.origin)}"))


def _vector(values: tuple[float, ...] | list[float]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"
