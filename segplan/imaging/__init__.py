"""Images with their geometry: readers, writers, the nonzero box, and safe writing of any file."""

from segplan.imaging.files import IMAGE_ENDINGS, read_image, read_label_map, split_ending, write_label_map
from segplan.imaging.image import Box, Geometry, Image
from segplan.imaging.nonzero import nonzero_box
from segplan.imaging.storage import atomic_write

__all__ = [
    "IMAGE_ENDINGS",
    "Box",
    "Geometry",
    "Image",
    "atomic_write",
    "nonzero_box",
    "read_image",
    "read_label_map",
    "split_ending",
    "write_label_map",
]
