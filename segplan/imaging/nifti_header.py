"""The header of NIfTI-1 and NIfTI-2 files: what it says about the voxels, and the fields that say where they sit."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segplan.errors import ImageError
from segplan.imaging.image import Geometry, direction_matrix, with_positive_spacing

FORMAT_NAME = "nifti"
_LARGEST_EXTENT_1 = 32767
_UNITS_MM = 2
_MM = {1: 1000.0, 3: 0.001}  # of the unit codes for metre and micrometre; anything else counts as mm
_SCANNER_ANATOMICAL = 1
_TO_RAS = np.array([-1.0, -1.0, 1.0])  # NIfTI's world is RAS, ITK's and ours LPS
_COPY = "Copy or download the file again."
_MEND = "Mend its qform and sform, or convert the image again."


class _Layout(NamedTuple):
    """Where the fields stand in one version of the header (struct formats and byte offsets)."""

    size: int
    magic: tuple[int, bytes]
    dims: tuple[str, int]
    datatype: tuple[str, int]
    offset: tuple[str, int]
    scaling: tuple[str, int]
    # qfac and spacings, units, form codes, and quaternion, offset and rows of the sform, one after another
    orientation: tuple[tuple[str, int], ...]
    first_voxel: int


_LAYOUTS = {
    1: _Layout(
        size=348,
        magic=(344, b"n+1\x00"),
        dims=("8h", 40),
        datatype=("2h", 70),
        offset=("f", 108),
        scaling=("2f", 112),
        orientation=(("8f", 76), ("B", 123), ("2h", 252), ("18f", 256)),
        first_voxel=352,
    ),
    2: _Layout(
        size=540,
        magic=(4, b"n+2\x00\r\n\x1a\n"),
        dims=("8q", 16),
        datatype=("2h", 12),
        offset=("q", 168),
        scaling=("2d", 176),
        orientation=(("8d", 104), ("i", 500), ("2i", 344), ("18d", 352)),
        first_voxel=544,
    ),
}


@dataclass(frozen=True)
class Header:
    """What is needed of a header.

    Attributes:
        version: 1 or 2.
        byte_order: "<" or ">".
        shape: extents along (x, y, z, t, ...), as many as the file has axes.
        datatype: NIfTI's code.
        offset: of the first voxel, in bytes.
        scaling: slope and intercept; None where the stored numbers are the values.
        orientation: the fields that say where the grid sits, little-endian.
    """

    version: int
    byte_order: str
    shape: tuple[int, ...]
    datatype: int
    offset: int
    scaling: tuple[float, float] | None
    orientation: bytes

    @property
    def num_voxels(self) -> int:
        """The product of all extents."""
        return math.prod(self.shape)


def parse_header(content: bytes, path: Path) -> Header:
    """The header at the beginning of an unpacked file.

    Raises:
        ImageError: it is no NIfTI header, cut short, or contradicts itself.
    """
    version, order = _version(content, path)
    layout = _LAYOUTS[version]
    if len(content) < layout.first_voxel:
        raise ImageError("the file is truncated within its header", path, _COPY)
    count, *extents = _unpack(order, layout.dims, content)
    if not 1 <= count <= 7 or min(extents[:count]) < 1:
        raise ImageError(f"its header announces axes of {extents[: max(1, min(count, 7))]} voxels", path, _COPY)
    offset = _unpack(order, layout.offset, content)[0]
    if not math.isfinite(offset) or offset < layout.first_voxel:
        raise ImageError(f"its header places the voxels at byte {offset:g} (vox_offset), inside itself", path, _COPY)
    fields = b"".join(struct.pack(f"<{field[0]}", *_unpack(order, field, content)) for field in layout.orientation)
    header = Header(
        version=version,
        byte_order=order,
        shape=tuple(extents[:count]),
        datatype=_unpack(order, layout.datatype, content)[0],
        offset=int(offset),
        scaling=_scaling(path, *_unpack(order, layout.scaling, content)),
        orientation=fields,
    )
    _check_numbers(header, path)
    return header


def geometry_of(header: Header, path: Path) -> Geometry:
    """The geometry in LPS: by the sform if there is one, else by the quaternion, else by the spacings alone.

    Raises:
        ImageError: the sform is singular.
    """
    pixdim, units, (qform, sform), placement = _orientation_parts(header)
    scale = _MM.get(units & 7, 1.0)
    size = 2 if len(header.shape) == 2 else 3
    spacing, direction, origin = np.ones(3), np.eye(3), np.zeros(3)
    spacing[:size] = np.abs(pixdim[1 : size + 1])
    if sform > 0:
        rows = np.array(placement[6:]).reshape(3, 4)
        spacing, origin = np.linalg.norm(rows[:, :3], axis=0), rows[:, 3]
        if not spacing.all():
            raise ImageError("its sform is singular", path, _MEND)
        direction = rows[:, :3] / spacing
    elif qform > 0:
        from scipy.spatial.transform import Rotation

        b, c, d = placement[:3]
        rotation = Rotation.from_quat([b, c, d, math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))]).as_matrix()
        direction = rotation * [1.0, 1.0, -1.0 if pixdim[0] < 0 else 1.0]
        origin = np.array(placement[3:6])
    direction = (_TO_RAS[:, None] * direction)[:size, :size]
    return Geometry(
        dimension=size,
        spacing=tuple((spacing[:size] * scale).tolist()),
        origin=tuple((_TO_RAS * origin * scale)[:size].tolist()),
        direction=tuple(direction.ravel().tolist()),
        header=f"{FORMAT_NAME}:{header.orientation.hex()}",
    )


def header_bytes(shape: tuple[int, ...], datatype: int, bits: int, geometry: Geometry) -> bytes:
    """A header, up to the first voxel, little-endian.

    Args:
        shape: extents along (x, y[, z]).
        datatype: NIfTI's code.
        bits: of one voxel.
        geometry: what to write about position and orientation; fields that were read from NIfTI go back unchanged.
    """
    text = geometry.header_of(FORMAT_NAME)
    known = None if text is None else bytes.fromhex(text)
    version = 1 if max(shape) <= _LARGEST_EXTENT_1 and (known is None or len(known) == _orientation_bytes(1)) else 2
    layout = _LAYOUTS[version]
    header = bytearray(layout.first_voxel)
    struct.pack_into("<i", header, 0, layout.size)
    header[layout.magic[0] : layout.magic[0] + len(layout.magic[1])] = layout.magic[1]
    _pack(header, layout.dims, len(shape), *shape, *[1] * (7 - len(shape)))
    _pack(header, layout.datatype, datatype, bits)
    _pack(header, layout.offset, layout.first_voxel)
    _pack(header, layout.scaling, 1.0, 0.0)
    if known is None or len(known) != _orientation_bytes(version):
        known = _orientation(geometry, layout)
    start = 0
    for kind, offset in layout.orientation:
        length = struct.calcsize(f"<{kind}")
        header[offset : offset + length] = known[start : start + length]
        start += length
    return bytes(header)


def _version(content: bytes, path: Path) -> tuple[int, str]:
    for version, layout in _LAYOUTS.items():
        start, magic = layout.magic
        if content[start : start + len(magic)] == magic:
            for order in "<>":
                if struct.unpack_from(f"{order}i", content)[0] == layout.size:
                    return version, order
    if content[344:348] == b"ni1\x00" or content[4:8] == b"ni2\x00":
        remedy = "Convert the pair to .nii.gz."
        raise ImageError("it is half of a pair of .hdr and .img files", path, remedy)
    remedy = "It is damaged or of another format: export or copy it again."
    raise ImageError("cannot be read (it has no NIfTI header)", path, remedy)


def _unpack(order: str, field: tuple[str, int], content: bytes) -> tuple[Any, ...]:
    return struct.unpack_from(f"{order}{field[0]}", content, field[1])


def _pack(header: bytearray, field: tuple[str, int], *values: float) -> None:
    struct.pack_into(f"<{field[0]}", header, field[1], *values)


def _scaling(path: Path, slope: float, intercept: float) -> tuple[float, float] | None:
    """None where stored numbers are the values: a slope of 0 means that there is no scaling (NIfTI-1 standard).

    So does a slope that is no number, as some programs write it.

    Raises:
        ImageError: there is a slope, and the intercept is no number.
    """
    if not math.isfinite(slope) or slope == 0 or (slope == 1 and intercept == 0):
        return None
    if not math.isfinite(intercept):
        what = f"its scl_slope is {slope:g} and its scl_inter no number ({intercept:g})"
        raise ImageError(what, path, "Mend the two fields of its header.")
    return slope, intercept


def _orientation_bytes(version: int) -> int:
    return sum(struct.calcsize(f"<{kind}") for kind, _ in _LAYOUTS[version].orientation)


def _orientation_parts(header: Header) -> tuple[tuple[float, ...], int, tuple[int, int], tuple[float, ...]]:
    """Spacings, unit code, (qform_code, sform_code), and the 18 numbers of quaternion, offset and sform."""
    values = struct.unpack("<" + "".join(kind for kind, _ in _LAYOUTS[header.version].orientation), header.orientation)
    return values[:8], int(values[8]), (int(values[9]), int(values[10])), values[11:]


def _check_numbers(header: Header, path: Path) -> None:
    """Raise for NaN or infinity in the fields that count: ITK would take some other field in silence."""
    pixdim, _, (qform, sform), placement = _orientation_parts(header)
    used = {
        "pixdim": pixdim[1 : 1 + min(3, len(header.shape))],
        "the quaternion": placement[:6] if qform > 0 else (),
        "the sform": placement[6:] if sform > 0 else (),
    }
    for name, numbers in used.items():
        if not all(map(math.isfinite, numbers)):
            raise ImageError(f"{name} in its header is not finite", path, _MEND)


def _orientation(geometry: Geometry, layout: _Layout) -> bytes:
    """The orientation fields for a geometry in LPS (NIfTI-1 standard, "3D image orientation", methods 2 and 3)."""
    from scipy.spatial.transform import Rotation

    size = geometry.dimension
    geometry = with_positive_spacing(geometry)
    direction, origin, spacing = np.eye(3), np.zeros(3), np.ones(3)
    direction[:size, :size] = direction_matrix(geometry)
    origin[:size], spacing[:size] = geometry.origin, geometry.spacing
    direction, origin = _TO_RAS[:, None] * direction, _TO_RAS * origin
    handedness = 1.0 if np.linalg.det(direction) > 0 else -1.0
    quaternion = Rotation.from_matrix(direction * [1.0, 1.0, handedness]).as_quat(canonical=True)[:3]  # (x, y, z)
    rows = np.column_stack([direction * spacing, origin])
    return b"".join(
        struct.pack(f"<{kind}", *values)
        for (kind, _), values in zip(
            layout.orientation,
            (
                (handedness, *spacing, 1.0, 0.0, 0.0, 0.0),
                (_UNITS_MM,),
                (_SCANNER_ANATOMICAL, _SCANNER_ANATOMICAL),
                (*quaternion, *origin, *rows.ravel()),
            ),
            strict=True,
        )
    )
