"""TIFF through tifffile: 2D pictures, and volumes of several pages with their spacing from a JSON file or metadata.

tifffile decodes uncompressed, deflate and PackBits data by itself, the other compressions where imagecodecs is
installed; without it Pillow's libtiff takes over (LZW, JPEG, CCITT), for the kinds of pixels that it knows.
"""

import json
import logging
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from segplan.errors import ImageError
from segplan.imaging import natural
from segplan.imaging.image import Geometry, Image, direction_matrix, spacing_zyx
from segplan.imaging.storage import atomic_write

if TYPE_CHECKING:
    import tifffile

ENDINGS = {".tif": ".tif", ".tiff": ".tiff"}
_STACK_AXES = "ZIQ"  # slices, and pages of which the file does not say what they are
_COLOUR_KINDS = ("MINISWHITE", "MINISBLACK", "RGB", "PALETTE", "YCBCR")
_IN_MM = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "nm": 1e-6, "pm": 1e-9, "inch": 25.4}
_TRANSPARENCY = (1, 2)  # kinds of extra samples; 0 is a channel like the others
_LARGEST_OME = 2**32 - 1
_CHANNEL_NUMBER = re.compile(r"_\d{4}$")
_DAMAGED = "It is damaged or of another format: export or copy it again."


def read_image(path: Path) -> Image:
    """Read a picture or volume: samples of a pixel (but transparency) and a channel axis are channels, pages slices.

    The spacing of a volume comes from a JSON file beside it ({"spacing": [z, y, x]}, named as the file or as the case,
    nnU-Net's convention), else from OME or ImageJ metadata, else it is 1 mm. A picture has none.

    Raises:
        ImageError: the file is damaged, has time points, or is of a kind that would lose values.
    """
    return _read(path, labels=False)


def read_labels(path: Path) -> Image:
    """Read a label map: the numbers of a palette are the labels, and grey that is stored as colour is one channel.

    Raises:
        ImageError: as `read_image`, or the file has colours.
    """
    return _read(path, labels=True)


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map (Z, Y, X) of an integer type, deflated: a volume as OME-TIFF with its spacing, a picture plain.

    Raises:
        ImageError: labels beyond 32 bit, or a geometry that TIFF cannot hold.
        StorageError: the disk is full or the folder cannot be written.
    """
    import tifffile

    if labels.dtype.itemsize > 4:
        raise ImageError(f"labels must lie below {_LARGEST_OME} in TIFF", path, "Number the labels 0, 1, 2, …")
    flat = geometry.dimension == 2
    if not flat and (any(geometry.origin) or not np.array_equal(direction_matrix(geometry), np.eye(3))):
        what = "TIFF cannot hold the image's position and orientation"
        raise ImageError(what, path, "Write .nii.gz instead.")
    sizes = {f"PhysicalSize{axis}": value for axis, value in zip("XYZ", geometry.spacing, strict=False)}
    units = {f"PhysicalSize{axis}Unit": "mm" for axis in "XYZ"}
    with atomic_write(path) as temporary:
        tifffile.imwrite(
            temporary,
            labels[0] if flat else labels,
            ome=not flat,
            photometric="minisblack",
            compression="adobe_deflate",
            metadata=None if flat else {"axes": "ZYX", **sizes, **units},
        )


def _read(path: Path, labels: bool) -> Image:
    import tifffile

    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as file:
            beside = spacing_file(path)
            axes = _axes(file, path, is_volume=beside is not None)
            channels = _channels(file, path, axes, labels)
            spacing = _spacing(file) if beside is None else _spacing_in_json(beside)
    except ImageError:
        raise
    # Damaged data end in many ways (TiffFileError, struct.error, zlib.error, IndexError, ValueError, MemoryError ...).
    except Exception as error:
        raise ImageError(f"cannot be read ({_first_line(error)})", path, _DAMAGED) from error
    if complaints:
        raise ImageError(f"it is damaged ({complaints[0]})", path, "Copy or download the file again.")
    if labels:
        channels = natural.grey_labels(channels, path)
    if spacing is None and "Z" not in axes:
        return Image(channels, natural.SPACING, natural.GEOMETRY)
    z, y, x = spacing or (1.0, 1.0, 1.0)
    geometry = Geometry(3, (x, y, z), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    return Image(channels, spacing_zyx(geometry), geometry)


def _axes(file: "tifffile.TiffFile", path: Path, is_volume: bool) -> str:
    """The axes of the array as stored, of C, Z, Y, X and S (colours).

    tifffile writes a volume with an edge of 3 or 4 voxels as colours unless it is told otherwise. So where a spacing
    stands beside the file, colours are slices (nnU-Net 2.8.1).
    """
    if len(file.series) != 1:
        sizes = ", ".join("×".join(map(str, series.shape)) for series in file.series[:4])
        what = f"it holds {len(file.series)} images of different sizes ({sizes})"
        raise ImageError(what, path, "Save one image a file.")
    axes = "".join("Z" if axis in _STACK_AXES else axis for axis in file.series[0].axes)
    if is_volume and "S" in axes and len(axes) == 3:
        return "ZYX"
    if axes.count("Z") > 1 or not set(axes) <= set("CZYXS"):
        what = f"its axes are {file.series[0].axes}: time points or the like are not supported"
        raise ImageError(what, path, "Save one volume a file, with slices (Z) and channels (C).")
    return axes


def _channels(file: "tifffile.TiffFile", path: Path, axes: str, labels: bool) -> np.ndarray:
    """(C, Z, Y, X)."""
    import tifffile

    page = file.pages.first
    kind = getattr(page.photometric, "name", str(page.photometric))
    # JPEG within TIFF stores YCbCr too, and its decoder gives RGB.
    if kind not in _COLOUR_KINDS or (kind == "YCBCR" and page.compression != tifffile.COMPRESSION.JPEG):
        raise ImageError(f"the colour mode {kind} is not supported", path, "Save it as grey or RGB.")
    if labels and kind == "MINISWHITE":
        raise ImageError("it stores white as 0, so its labels are reversed", path, "Save it as grey with black as 0.")
    array = _decoded(file, path)
    if np.iscomplexobj(array):
        raise ImageError("the voxels are complex numbers", path, "Save magnitude (or real) values.")
    order = [axis for axis in "CSZYX" if axis in axes]
    array = array.transpose([axes.index(axis) for axis in order])
    if "S" in axes:  # colours; without transparency
        samples = np.moveaxis(array, order.index("S"), 0)
        samples = samples[_kept(page, len(samples))]
        array = samples.reshape(-1, *samples.shape[-2 - ("Z" in axes) :])
    elif "C" not in axes:
        array = array[None]
    if kind == "PALETTE" and not labels and page.colormap is not None:
        array = np.concatenate([table[array] >> 8 for table in page.colormap])
    if "Z" not in axes:
        array = array[:, None]
    return array.astype(np.uint8) if array.dtype == np.bool_ else array


def _kept(page: Any, count: int) -> list[int]:
    """Which of the `count` samples of a pixel are channels: all but transparency."""
    extra = [int(kind) for kind in page.extrasamples or ()]
    first = count - len(extra)
    return [number for number in range(count) if number < first or extra[number - first] not in _TRANSPARENCY]


def _decoded(file: "tifffile.TiffFile", path: Path) -> np.ndarray:
    """The pixels of the first series, in the order of its axes."""
    series = file.series[0]
    pieces = (piece for page in series.pages if page is not None for piece in _pieces(page))
    if any(offset + length > file.filehandle.size for offset, length in pieces):
        raise ImageError("the file is truncated", path, "Copy or download the file again.")
    try:
        return np.asarray(series.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        array = _decoded_by_pillow(path, len(series.pages), series.dtype)
        if array is None or array.size != math.prod(series.shape):
            compression = getattr(file.pages.first.compression, "name", "of its kind")
            what = f"compression {compression} needs the package imagecodecs"
            remedy = "Install it (pip install imagecodecs), or save without compression."
            raise ImageError(what, path, remedy) from error
        return array.reshape(series.shape)


def _pieces(page: Any) -> Iterator[tuple[int, int]]:
    """Where the strips or tiles of a page lie: (offset, length) in bytes."""
    return zip(page.dataoffsets, page.databytecounts, strict=False)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What tifffile logs as an error in this thread meanwhile: it then leaves out pages and goes on."""
    found: list[str] = []
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread == thread and record.levelno >= logging.ERROR:
            found.append(record.getMessage().splitlines()[0])
        return False  # said by our own error, or of no interest to the user

    logger = logging.getLogger("tifffile")
    logger.addFilter(keep)
    try:
        yield found
    finally:
        logger.removeFilter(keep)


def _decoded_by_pillow(path: Path, num_pages: int, dtype: Any) -> np.ndarray | None:
    """The pages one after another, or None where Pillow would change the type of the pixels."""
    from PIL import Image as Pillow

    pages = []
    try:
        with Pillow.open(path) as picture:
            for number in range(num_pages):
                picture.seek(number)
                pages.append(np.array(picture))
    except (OSError, ValueError, SyntaxError):
        return None
    array = np.stack(pages)
    return array if array.dtype == dtype.newbyteorder("=") else None


def spacing_file(path: Path) -> Path | None:
    """The file with the spacing, named as the image or as its case."""
    names = (path.stem, _CHANNEL_NUMBER.sub("", path.stem))
    return next((found for name in names if (found := path.with_name(f"{name}.json")).is_file()), None)


def _spacing(file: "tifffile.TiffFile") -> tuple[float, float, float] | None:
    """The spacing in mm along (z, y, x) by metadata, or None where nothing says that the file is a volume."""
    if file.is_ome and file.ome_metadata:
        return _spacing_in_ome(file.ome_metadata)
    if file.is_imagej:
        return _spacing_in_imagej(file)
    return None


def _spacing_in_json(path: Path) -> tuple[float, float, float]:
    remedy = 'Write {"spacing": [z, y, x]} in mm.'
    try:
        z, y, x = (float(value) for value in json.loads(path.read_text(encoding="utf-8-sig"))["spacing"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError("it gives no spacing for the TIFF beside it", path, remedy) from error
    return z, y, x


def _spacing_in_ome(metadata: str) -> tuple[float, float, float] | None:
    pixels = ElementTree.fromstring(metadata).find(".//{*}Pixels")  # noqa: S314  no entity is expanded
    if pixels is None or (pixels.get("SizeZ", "1") == "1" and pixels.get("PhysicalSizeZ") is None):
        return None
    z, y, x = (
        float(pixels.get(f"PhysicalSize{axis}", 1.0)) * _unit(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        if pixels.get(f"PhysicalSize{axis}")
        else 1.0
        for axis in "ZYX"
    )
    return z, y, x


def _spacing_in_imagej(file: "tifffile.TiffFile") -> tuple[float, float, float] | None:
    metadata = file.imagej_metadata or {}
    if int(metadata.get("slices", 1)) == 1 and "Z" not in file.series[0].axes:
        return None
    unit = _unit(str(metadata.get("unit", "mm")))
    y, x = (_pixel_size(file.pages.first, f"{axis}Resolution") * unit for axis in "YX")
    return float(metadata.get("spacing", 1.0)) * unit, y, x


def _pixel_size(page: Any, tag: str) -> float:
    """The reciprocal of a resolution tag, 1 where there is none."""
    found = page.tags.get(tag)
    pixels, length = (1, 1) if found is None else found.value
    return length / pixels if pixels and length else 1.0


def _unit(name: str) -> float:
    """How many mm one unit is; a unit that means no length (pixel) counts as mm."""
    plain = name.strip().lower().replace("\\u00b5", "u").replace("µ", "u").replace("μ", "u")
    return _IN_MM.get(plain, 1.0)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
