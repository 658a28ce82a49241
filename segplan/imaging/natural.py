"""Pictures through Pillow: PNG, BMP, JPEG; grey, colour, palette, 1 and 16 bit.

Pixels come as they are stored: an EXIF tag that asks viewers to turn the picture is not obeyed (nor by nnU-Net 2.8.1).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segplan.errors import ImageError
from segplan.imaging.image import Geometry, Image
from segplan.imaging.storage import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

ENDINGS = {".png": ".png", ".bmp": ".bmp", ".jpg": ".png", ".jpeg": ".png"}
SPACING = (999.0, 1.0, 1.0)  # nnU-Net 2.8.1; a picture has no physical size
GEOMETRY = Geometry(2, (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
_LOSSY = (".jpg", ".jpeg")
_GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_LARGEST = {".png": 65535, ".bmp": 255}


def read_image(path: Path) -> Image:
    """Read a picture: one channel for grey, three for colour or palette; transparency is dropped.

    Raises:
        ImageError: the file is truncated, of several pages, or of a kind that would lose values.
    """
    return _read(path, labels=False)


def read_labels(path: Path) -> Image:
    """Read a label picture: the numbers of a palette are the labels, and grey that is stored as colour is one channel.

    Raises:
        ImageError: as `read_image`, or the picture has colours.
    """
    return _read(path, labels=True)


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
    largest = _LARGEST[ending]
    if labels.size and (labels.min() < 0 or labels.max() > largest):
        raise ImageError(f"labels must lie in 0 to {largest} in {ending}", path, "Write .nii.gz instead.")
    wide = labels.dtype.itemsize > 1
    with atomic_write(path) as temporary:
        Pillow.fromarray(labels[0].astype(np.uint16 if wide else np.uint8)).save(temporary)


def _read(path: Path, labels: bool) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as picture:
            pages = getattr(picture, "n_frames", 1)
            if pages > 1:
                remedy = "Save a volume as .nii.gz instead."
                raise ImageError(f"it has {pages} pages, a picture has one", path, remedy)
            encoding = "" if picture.mode in _GREY else _deep_encoding(picture)
            channels = _deep_channels(path, encoding) if encoding else _channels(picture, path, keep_palette=labels)
    except Pillow.DecompressionBombError as error:
        raise ImageError(str(error), path, "Cut the picture into smaller ones.") from error
    except ImageError:
        raise
    # Pillow's decoders end in many ways on damaged data (SyntaxError, struct.error, IndexError, TypeError ...).
    except Exception as error:
        remedy = "It is damaged or of another format: export or copy it again."
        raise ImageError(f"cannot be read ({error})", path, remedy) from error
    if labels:
        channels = grey_labels(channels, path)
    return Image(channels[:, None], SPACING, GEOMETRY)


def grey_labels(channels: np.ndarray, path: Path) -> np.ndarray:
    """The one channel (1, ...) of a label map whose channels (C, ...) may be the same grey three times.

    Raises:
        ImageError: it has colours.
    """
    if len(channels) == 1 or (channels == channels[0]).all():
        return channels[:1]
    raise ImageError("a label map must be grey, this picture has colours", path, "Save the label numbers as grey PNG.")


def _deep_encoding(picture: "Picture") -> str:
    """What the file calls its pixels if they have 16 bit a colour, of which Pillow drops the lower half; else ""."""
    encodings = [
        str(tile[3] if isinstance(tile[3], str) else tile[3][0]) for tile in getattr(picture, "tile", []) if tile[3]
    ]
    return next((encoding for encoding in encodings if ";16" in encoding), "")


def _channels(picture: "Picture", path: Path, keep_palette: bool) -> np.ndarray:
    """(C, Y, X)."""
    mode = picture.mode
    if mode in _GREY or (mode == "P" and keep_palette):
        pixels = np.array(picture)
        return (pixels.astype(np.uint8) if mode == "1" else pixels)[None]
    if mode == "LA":
        return np.array(picture.getchannel("L"))[None]
    if mode not in ("RGB", "RGBA", "P"):
        raise ImageError(f"the colour mode {mode} is not supported", path, "Save it as grey or RGB.")
    colours = picture.convert("RGBA").convert("RGB") if mode == "P" else picture
    return np.moveaxis(np.array(colours), -1, 0)[:3]


def _deep_channels(path: Path, encoding: str) -> np.ndarray:
    """(C, Y, X) of a PNG with 16 bit a colour, through ITK; transparency is dropped as elsewhere."""
    from segplan.imaging import simpleitk

    if encoding.startswith("LA"):
        raise ImageError("16 bit grey with transparency is not supported", path, "Save it without transparency.")

    channels = np.moveaxis(simpleitk.read_voxels(simpleitk.open_file(path, "PNGImageIO"), path), -1, 0)
    return channels[:3]
