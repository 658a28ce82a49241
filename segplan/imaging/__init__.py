"""Images with their geometry: readers, writers, the nonzero box, and safe writing of any file."""

from segplan.imaging.files import (
    IMAGE_ENDINGS,
    label_ending_for,
    read_image,
    read_label_map,
    split_ending,
    write_label_map,
    write_map,
)
from segplan.imaging.image import Box, Geometry, Image, axis_codes
from segplan.imaging.nonzero import nonzero_box
from segplan.imaging.storage import TEMPORARY_PREFIX, atomic_folder, atomic_write, remove_leftovers

__all__ = [
    "IMAGE_ENDINGS",
    "TEMPORARY_PREFIX",
    "Box",
    "Geometry",
    "Image",
    "atomic_folder",
    "atomic_write",
    "axis_codes",
    "label_ending_for",
    "nonzero_box",
    "read_image",
    "read_label_map",
    "remove_leftovers",
    "split_ending",
    "write_label_map",
    "write_map",
]
