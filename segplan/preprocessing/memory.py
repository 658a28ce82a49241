"""How much memory this process may still take, and how much preprocessing a case takes."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segplan.dataset import Case
from segplan.errors import ImageError
from segplan.imaging.image import spacing_zyx
from segplan.imaging.nifti_header import geometry_of, parse_header
from segplan.preprocessing.control_groups import MEMBERSHIP, ROOT, available_memory
from segplan.preprocessing.plan import PreprocessingPlan

GIB = 1 << 30

_SHARE = 0.8
"""Of the free memory that is taken: the rest is for the disk cache and for what other programs need meanwhile."""

_WORKER_BYTES = 64 << 20
"""What a worker needs beside its arrays, and beside what it shares with the others."""

_GZIP_RATIO = 4
_NIFTI = (".nii.gz", ".nii")
_NIFTI_START = 1 << 12
_ITK = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".gipl": "GiplImageIO"}


def usable_memory(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Bytes that may be planned with: a share of what the machine and this process's control groups have free."""
    return int(_SHARE * available_memory(root, membership))


@dataclass(frozen=True)
class CaseSize:
    """What a case's headers say: `values` over all channels, `voxels` of one channel, mm a voxel along (z, y, x)."""

    values: int
    voxels: int
    spacing: tuple[float, float, float] | None

    @property
    def inspection_bytes(self) -> int:
        """The most memory that verifying and measuring this case takes: file, float32 array, label map and masks."""
        return 8 * self.values + 8 * self.voxels + _WORKER_BYTES

    def peak_bytes(self, plan: PreprocessingPlan) -> int:
        """The most memory that preprocessing this case takes at a time; rather too high than too low.

        Reading holds the file's content and the float32 array. Resampling holds that array, label map and mask, the
        output, and one volume between the axes.
        """
        channels = max(1, self.values // max(1, self.voxels))
        output = self.voxels * self._growth(plan)
        reading = 8 * self.values + 2 * self.voxels
        resampling = 4 * self.values + 3 * self.voxels + (4 * channels + 1) * output + 4 * max(self.voxels, output)
        return int(max(reading, resampling)) + _WORKER_BYTES

    def _growth(self, plan: PreprocessingPlan) -> float:
        """Voxels of the network's grid for each of the file."""
        if self.spacing is None:
            return 1.0
        target = plan.target_spacing(self.spacing)
        own = (self.spacing[axis] for axis in plan.transpose)
        return math.prod(a / b for a, b in zip(own, target, strict=True))


def case_size(case: Case) -> CaseSize:
    """Look at the headers of a case's files, or, where they tell nothing, at the size of the files.

    An unreadable file gives a guess, not an error: reading it in earnest will say what is wrong.
    """
    sizes = [_file_size(Path(path)) for path in case.images]
    first = sizes[0]
    return CaseSize(sum(size.values for size in sizes), first.voxels, first.spacing)


def _file_size(path: Path) -> CaseSize:
    ending = next((ending for ending in (*_NIFTI, *_ITK) if path.name.lower().endswith(ending)), None)
    try:
        if ending in _NIFTI:
            return _nifti_size(path)
        if ending is not None:
            return _itk_size(path, _ITK[ending])
    except (OSError, EOFError, zlib.error, RuntimeError, ImageError):
        pass  # said when the case is read
    return _guess(path)


def _nifti_size(path: Path) -> CaseSize:
    with path.open("rb") as file:
        start = file.read(_NIFTI_START)
    if start.startswith(b"\x1f\x8b"):
        start = zlib.decompressobj(wbits=31).decompress(start)
    header = parse_header(start, path)
    x, y, z = (*header.shape, 1, 1)[:3]
    return CaseSize(header.num_voxels, z * y * x, spacing_zyx(geometry_of(header, path)) if z > 1 else None)


def _itk_size(path: Path, image_io: str) -> CaseSize:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, spacing = reader.GetSize(), [abs(value) for value in reader.GetSpacing()]
    values = math.prod(size) * reader.GetNumberOfComponents()
    if len(size) < 3:
        return CaseSize(values, math.prod(size), None)
    return CaseSize(values, math.prod(size[:3]), (spacing[2], spacing[1], spacing[0]))


def _guess(path: Path) -> CaseSize:
    """From the bytes on the disk; pictures and archives are packed."""
    files: Sequence[Path] = list(path.rglob("*")) if path.is_dir() else [path]
    try:
        size = sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        size = 0
    packed = path.suffix.lower() not in (".bmp", ".tif", ".tiff", "")
    return CaseSize(_GZIP_RATIO * size if packed else size, _GZIP_RATIO * size if packed else size, None)


def describe_bytes(size: float) -> str:
    """`0.4 GB` or `12 GB` (2**30 bytes)."""
    gib = size / GIB
    return f"{gib:.1f} GB" if gib < 10 else f"{gib:.0f} GB"
