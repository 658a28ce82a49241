"""Pictures through Pillow: PNG, BMP, TIFF, JPEG; grey, colour, palette, 1 and 16 bit."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segplan.errors import ImageError
from segplan.imaging.image import Geometry, Image
from segplan.imaging.storage import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
_LOSSY = (".jpg", ".jpeg")
_SPACING = (999.0, 1.0, 1.0)  # nnU-Net 2.8.1; a picture has no physical size
_GEOMETRY = Geometry(2, (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
_GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_LARGEST = {".bmp": 255}  # of the formats written; the others hold 16 bit
_LARGEST_16_BIT = 65535


def read_image(path: Path) -> Image:
    """Read a picture: one channel for grey, three for colour or palette; transparency is dropped.

    Raises:
        ImageError: the file is missing, truncated, of several pages, or of a kind that would lose values.
    """
    return _read(path, palette_indices=False)


def read_labels(path: Path) -> Image:
    """Read a label picture: the numbers of a palette are the labels, and grey that is stored as colour is one channel.

    Raises:
        ImageError: as `read_image`, or the picture has colours.
    """
    return _read(path, palette_indices=True)


def write_labels(path: Path, labels: np.ndarray, _geometry: Geometry) -> None:
    """Write a label map (1, Y, X) of an integer type as a grey picture of 8 or 16 bit.

    Raises:
        ImageError: the format is lossy or too narrow, or there are several slices.
        StorageError: the disk is full or the folder cannot be written.
    """
    from PIL import Image as Pillow

    ending = path.suffix.lower()
    if ending in _LOSSY:
        raise ImageError("JPEG is lossy and would alter labels", path, "Write .png instead.")
    if labels.shape[0] != 1:
        raise ImageError("a picture holds one 2D slice", path, "Write a volume as .nii.gz instead.")
    largest = _LARGEST.get(ending, _LARGEST_16_BIT)
    if labels.size and (labels.min() < 0 or labels.max() > largest):
        raise ImageError(f"labels must lie in 0 to {largest} in {ending}", path, "Write .nii.gz instead.")
    wide = labels.dtype.itemsize > 1
    with atomic_write(path) as temporary:
        Pillow.fromarray(labels[0].astype(np.uint16 if wide else np.uint8)).save(temporary)


def _read(path: Path, palette_indices: bool) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as picture:
            _refuse_what_would_lose(picture, path)
            pixels = _pixels(picture, path, palette_indices)
    except FileNotFoundError as error:
        raise ImageError("there is no such file", path, "Check the path.") from error
    except Pillow.DecompressionBombError as error:
        raise ImageError(str(error), path, "Cut the picture into smaller ones.") from error
    except ImageError:
        raise
    # Pillow's decoders end in many ways on damaged data (SyntaxError, struct.error, IndexError, TypeError ...).
    except Exception as error:
        remedy = "It is damaged or of another format: export or copy it again."
        raise ImageError(f"cannot be read ({error})", path, remedy) from error
    return Image(pixels[:, None], _SPACING, _GEOMETRY)


def _refuse_what_would_lose(picture: "Picture", path: Path) -> None:
    """Raise for what Pillow would read only in part: further pages, and the lower half of 16 bit colours."""
    pages = getattr(picture, "n_frames", 1)
    if pages > 1:
        raise ImageError(f"it has {pages} pages, a picture has one", path, "Save a volume as .nii.gz instead.")
    encodings = [
        str(tile[3] if isinstance(tile[3], str) else tile[3][0]) for tile in getattr(picture, "tile", []) if tile[3]
    ]
    if picture.mode not in _GREY and any(";16" in encoding for encoding in encodings):
        raise ImageError("colours of 16 bit are not supported", path, "Save 8 bit, or one 16 bit grey file a channel.")


def _pixels(picture: "Picture", path: Path, palette_indices: bool) -> np.ndarray:
    """(C, Y, X)."""
    mode = picture.mode
    if mode in _GREY or (mode == "P" and palette_indices):
        pixels = np.array(picture)
        return (pixels.astype(np.uint8) if mode == "1" else pixels)[None]
    if mode == "LA":
        return np.array(picture.getchannel("L"))[None]
    if mode not in ("RGB", "RGBA", "P"):
        raise ImageError(f"the colour mode {mode} is not supported", path, "Save it as grey or RGB.")
    channels = np.moveaxis(np.array(picture.convert("RGBA").convert("RGB") if mode == "P" else picture), -1, 0)[:3]
    if not palette_indices:
        return channels
    if (channels == channels[0]).all():
        return channels[:1]
    raise ImageError("a label map must be grey, this picture has colours", path, "Save the label numbers as grey PNG.")
