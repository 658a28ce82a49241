"""NIfTI-1 voxels and orientation, read and written directly.

ITK reads a truncated or corrupted .nii.gz without complaint (the missing voxels are garbage), writes one onto a full
disk without complaint, and rounds the orientation anew at each round trip. So the file's bytes are decoded here, where
length and checksum are checked; ITK serves for what the header means (simpleitk.py).
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from segplan.errors import ImageError
from segplan.imaging.image import Geometry
from segplan.imaging.storage import atomic_write

ENDINGS = (".nii.gz", ".nii")
_HEADER_BYTES = 348
_VOXEL_OFFSET = 352
_PIXDIM = slice(76, 108)  # qfac, then the spacings
_UNITS = slice(123, 124)
_FORMS = slice(252, 328)  # qform_code, sform_code, quaternion, offset, the three rows of the sform
_UNITS_MM = 2
_SCANNER_ANATOMICAL = 1
_COMPRESSION_LEVEL = 6
_DATATYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_CODES = {code: number for number, code in _DATATYPES.items()}


def read_content(path: Path) -> bytes:
    """The whole file, unpacked where it is gzipped.

    Raises:
        ImageError: the file cannot be opened, or the gzip stream is truncated or damaged.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except EOFError as error:
        raise _damaged(path, "the gzip file is truncated") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, f"the gzip file is damaged ({error})") from error
    except OSError as error:
        raise ImageError(f"cannot be opened ({error.strerror})", path, "Check the path and its permissions.") from error


def decode_voxels(content: bytes, path: Path) -> np.ndarray | None:
    """The voxels in file order (flat, read-only), or None where ITK must read them (scaled, complex, colour, NIfTI-2).

    Args:
        content: what `read_content` gave.
        path: for the error message.

    Raises:
        ImageError: there are fewer voxels than the header announces.
    """
    order = _byte_order(content)
    if order is None:
        return None
    dimensions = struct.unpack_from(f"{order}8h", content, 40)
    datatype, bits = struct.unpack_from(f"{order}2h", content, 70)
    offset, slope, intercept = struct.unpack_from(f"{order}3f", content, 108)
    if not (1 <= dimensions[0] <= 7) or not math.isfinite(offset):
        return None
    count = math.prod(dimensions[1 : dimensions[0] + 1])
    expected = int(offset) + count * bits // 8
    if len(content) < expected:
        raise _damaged(path, f"it holds {len(content)} of the {expected} bytes that its header announces")
    if datatype not in _DATATYPES or not _is_unscaled(slope, intercept):
        return None
    return np.frombuffer(content, dtype=np.dtype(order + _DATATYPES[datatype]), count=count, offset=int(offset))


def orientation_fields(content: bytes) -> str | None:
    """The header fields that say where the grid sits, as hexadecimal; None for what is not little-endian NIfTI-1."""
    if _byte_order(content) != "<":
        return None
    return (content[_PIXDIM] + content[_UNITS] + content[_FORMS]).hex()


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map (Z, Y, X) of an integer type; the same labels give the same bytes.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    header = _header(labels, geometry)
    voxels = labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes()
    content = header + bytes(_VOXEL_OFFSET - _HEADER_BYTES) + voxels
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=_COMPRESSION_LEVEL, mtime=0)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _damaged(path: Path, what: str) -> ImageError:
    return ImageError(what, path, "Copy or download the file again.")


def _byte_order(content: bytes) -> str | None:
    """'<' or '>' for a single-file NIfTI-1 header, None for anything else."""
    if len(content) < _VOXEL_OFFSET or content[344:348] != b"n+1\x00":
        return None
    return {348: "<", 1543569408: ">"}.get(struct.unpack_from("<i", content)[0])


def _is_unscaled(slope: float, intercept: float) -> bool:
    """Whether stored numbers are the values: a slope of 0 means that there is no scaling (NIfTI-1 standard)."""
    return slope == 0 or (slope == 1 and intercept == 0)


def _header(labels: np.ndarray, geometry: Geometry) -> bytes:
    header = bytearray(_HEADER_BYTES)
    shape = labels.shape[::-1][: geometry.dimension]
    struct.pack_into("<i", header, 0, _HEADER_BYTES)
    struct.pack_into("<8h", header, 40, geometry.dimension, *shape, *[1] * (7 - geometry.dimension))
    struct.pack_into("<2h", header, 70, _CODES[labels.dtype.str[1:]], 8 * labels.dtype.itemsize)
    struct.pack_into("<3f", header, 108, _VOXEL_OFFSET, 1.0, 0.0)
    fields = _orientation(geometry) if geometry.nifti is None else bytes.fromhex(geometry.nifti)
    header[_PIXDIM], header[_UNITS], header[_FORMS] = fields[:32], fields[32:33], fields[33:]
    header[344:348] = b"n+1\x00"
    return bytes(header)


def _orientation(geometry: Geometry) -> bytes:
    """The orientation fields for a geometry in LPS (NIfTI-1 standard, "3D image orientation", methods 2 and 3)."""
    from scipy.spatial.transform import Rotation

    size = geometry.dimension
    direction, origin, spacing = np.eye(3), np.zeros(3), np.ones(3)
    direction[:size, :size] = np.array(geometry.direction).reshape(size, size)
    origin[:size], spacing[:size] = geometry.origin, geometry.spacing
    to_ras = np.array([-1.0, -1.0, 1.0])
    direction, origin = to_ras[:, None] * direction, to_ras * origin
    handedness = 1.0 if np.linalg.det(direction) > 0 else -1.0
    quaternion = Rotation.from_matrix(direction * [1.0, 1.0, handedness]).as_quat(canonical=True)[:3]  # (x, y, z)
    rows = np.column_stack([direction * spacing, origin])
    codes = struct.pack("<2h", _SCANNER_ANATOMICAL, _SCANNER_ANATOMICAL)
    pixdim = struct.pack("<8f", handedness, *spacing, 1.0, 0.0, 0.0, 0.0)
    return pixdim + bytes([_UNITS_MM]) + codes + struct.pack("<18f", *quaternion, *origin, *rows.ravel())
