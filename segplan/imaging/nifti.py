"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz), decoded and written here.

ITK reads a truncated or corrupted .nii.gz without complaint (the missing voxels are garbage), writes one onto a full
disk without complaint, knows no NIfTI-2, and rounds the orientation anew at each round trip. So the bytes are decoded
here, where length and checksum are checked; ITK says what the orientation of a NIfTI-1 header means, so that files sit
where nnU-Net has them.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from segplan.errors import ImageError
from segplan.imaging import simpleitk
from segplan.imaging.image import Geometry, Image, spacing_zyx
from segplan.imaging.nifti_header import FORMAT_NAME, Header, geometry_of, header_bytes, parse_header
from segplan.imaging.storage import atomic_write

ENDINGS = {".nii.gz": ".nii.gz", ".nii": ".nii"}
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
_COLOURS = {128: 3, 2304: 4}  # RGB and RGBA: one byte a component, side by side
_COMPLEX = (32, 1792, 2048)
_UNUSABLE = {0: "unknown", 1: "1 bit", 1536: "float128"}


def read_image(path: Path) -> Image:
    """Read a file with the pixel type that it has; the 4th axis (or the 5th after a 4th of 1) and colours are channels.

    Scaled integers (scl_slope, scl_inter) become float32, as ITK has them.

    Raises:
        ImageError: the file is truncated or damaged, or its voxels or axes are of no usable kind.
    """
    content = _read_content(path)
    header = parse_header(content, path)
    voxels = _decode(content, header, path)
    if header.version == 1:
        reader = simpleitk.open_file(path, "NiftiImageIO")
        geometry = simpleitk.geometry_of(reader, f"{FORMAT_NAME}:{header.orientation.hex()}")
    else:
        geometry = geometry_of(header, path)
    array = _channels_first(voxels, header, geometry.dimension, path)
    return Image(array, spacing_zyx(geometry), geometry)


read_labels = read_image


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map (Z, Y, X) of an integer type; the same labels give the same bytes.

    It is NIfTI-1, but for the geometry of a NIfTI-2 file and for more than 32767 voxels along an axis.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    shape = labels.shape[::-1][: geometry.dimension]
    header = header_bytes(shape, _CODES[labels.dtype.str[1:]], 8 * labels.dtype.itemsize, geometry)
    content = header + labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=_COMPRESSION_LEVEL, mtime=0)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _read_content(path: Path) -> bytes:
    """The whole file, unpacked where it is gzipped."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except EOFError as error:
        raise _damaged(path, "the gzip file is truncated") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, f"the gzip file is damaged ({error})") from error
    except OSError as error:
        raise ImageError(f"cannot be opened ({error.strerror})", path, "Check the path and its permissions.") from error


def _decode(content: bytes, header: Header, path: Path) -> np.ndarray:
    """The voxels in file order: flat, or (N, components) for colours; read-only where they are not scaled."""
    kind = header.datatype
    if kind in _COMPLEX:
        raise ImageError("the voxels are complex numbers", path, "Save magnitude (or real) values.")
    if kind not in _DATATYPES and kind not in _COLOURS:
        name = _UNUSABLE.get(kind, f"unknown ({kind})")
        raise ImageError(f"the data type of the voxels is {name}", path, "Save it as an integer or float32 image.")
    components = _COLOURS.get(kind, 1)
    stored = np.dtype(header.byte_order + _DATATYPES.get(kind, "u1"))
    count = header.num_voxels * components
    expected = header.offset + count * stored.itemsize
    if len(content) < expected:
        raise _damaged(path, f"it holds {len(content)} of the {expected} bytes that its header announces")
    voxels = np.frombuffer(content, dtype=stored, count=count, offset=header.offset)
    if components > 1:
        return voxels.reshape(-1, components)
    if header.scaling is None:
        return voxels
    slope, intercept = header.scaling
    # Through float32, as ITK does: otherwise the last bit of large integers would differ.
    working = voxels if stored.kind == "f" else voxels.astype(np.float32)
    scaled: np.ndarray = working.astype(np.float64) * slope + intercept
    return scaled if stored.itemsize == 8 and stored.kind == "f" else scaled.astype(np.float32)


def _channels_first(voxels: np.ndarray, header: Header, dimension: int, path: Path) -> np.ndarray:
    """(C, Z, Y, X) from voxels in file order."""
    shape = header.shape
    spatial = (*shape, 1, 1)[:dimension]
    further = [extent for extent in shape[dimension:] if extent != 1]
    sizes = "×".join(map(str, shape))
    if len(shape) < 2 or len(further) > 1:
        what = f"an array of {sizes} is neither 2D, 3D nor 3D with channels"
        raise ImageError(what, path, "Save one file a channel.")
    in_file_order = spatial[::-1] if dimension == 3 else (1, *spatial[::-1])
    if voxels.ndim == 2:
        if further:
            raise ImageError(f"{further[0]} colour volumes are not supported", path, "Save one file a volume.")
        return np.moveaxis(voxels.reshape(*in_file_order, voxels.shape[1]), -1, 0)
    return voxels.reshape(-1, *in_file_order)


def _damaged(path: Path, what: str) -> ImageError:
    return ImageError(what, path, "Copy or download the file again.")
