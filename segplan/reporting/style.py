"""Colours and type of the pictures."""

import colorsys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

BACKGROUND = (18, 20, 24)
TEXT = (236, 238, 240)
DIM = (150, 156, 164)
GAP = 12

_COLOURS = (
    (230, 80, 70),
    (70, 190, 110),
    (80, 140, 255),
    (245, 190, 50),
    (225, 90, 220),
    (50, 205, 215),
    (250, 140, 60),
    (165, 130, 255),
    (165, 215, 60),
    (255, 150, 175),
)
"""Colours of labels 1 to 10, told apart on grey and by most colour-blind people with the outline's help."""


def class_colour(label: int) -> tuple[int, int, int]:
    """Colour (R, G, B) of a label value from 1 up; beyond the list, hues spread by the golden ratio."""
    if 1 <= label <= len(_COLOURS):
        return _COLOURS[label - 1]
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def font(size: int) -> "FreeTypeFont | ImageFont":
    """Pillow's own typeface in a size in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return round(font(size).getlength(text))
