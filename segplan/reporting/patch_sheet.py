"""A sheet of training patches: each before and after augmentation, with label outlines and what was done to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segplan.imaging import atomic_write
from segplan.reporting.overlay import outline
from segplan.reporting.planes import busiest_slice
from segplan.reporting.style import BACKGROUND, DIM, GAP, TEXT, class_colour, font, text_width

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

_SIDE_3D, _SIDE_2D = 168, 260  # pixels of the longest side of a panel
_NARROWEST = 400
_SHEET_WIDTH = 1700
_CARD = (30, 33, 39)
_SMALL, _NORMAL, _LARGE = 12, 14, 18
_IGNORED = (235, 235, 235)

LabelArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PatchPair:
    """A patch before and after augmentation, of one channel; 2D patches have one slice.

    Args:
        title: what it is.
        lines: what was done to it, a line a transform.
        before: intensities and labels (Z, Y, X).
        after: the same, augmented.
    """

    title: str
    lines: Sequence[str]
    before: tuple[FloatArray, LabelArray]
    after: tuple[FloatArray, LabelArray]


def write_patch_sheet(
    path: Path,
    patches: Sequence[PatchPair],
    spacing: tuple[float, float, float],
    *,
    title: str,
    names: Mapping[int, str],
    ignore: int | None = None,
) -> None:
    """Write a PNG with a card for each patch; of a volume the planes that show most of the labels.

    Args:
        path: the file to write.
        patches: at least one, all of one size.
        spacing: mm along (z, y, x); corrects the planes' aspect.
        title: the picture's headline.
        names: name of each label value but 0; others are shown by number.
        ignore: the value that is not annotated, outlined in white.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    colours = {} if ignore is None else {ignore: _IGNORED}
    cards = [_card(patch, spacing, colours) for patch in patches]
    width = max(card.width for card in cards)
    columns = max(1, min(len(cards), (_SHEET_WIDTH - GAP) // (width + GAP)))
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) + GAP for row in rows]
    present = sorted({int(value) for patch in patches for value in np.unique(patch.after[1])} - {0})
    legend = [(colours.get(value, class_colour(value)), names.get(value, f"label {value}")) for value in present]
    picture, top = _canvas(title, legend, GAP + columns * (width + GAP), sum(heights))
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            picture.paste(card, (GAP + column * (width + GAP), top))
        top += height
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def _canvas(
    title: str, legend: Sequence[tuple[tuple[int, int, int], str]], width: int, height: int
) -> tuple["Picture", int]:
    """An empty sheet with its headline and legend, and the y at which the cards begin."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    width = max(width, 2 * GAP + text_width(title, _LARGE))
    lines: list[list[tuple[tuple[int, int, int], str]]] = [[]]
    used = GAP
    for colour, name in legend:
        size = 18 + text_width(name, _NORMAL) + 2 * GAP
        if lines[-1] and used + size > width:
            lines.append([])
            used = GAP
        lines[-1].append((colour, name))
        used += size
    top = GAP + 28 + 22 * len(lines) + GAP // 2
    picture = Pillow.new("RGB", (width, top + height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP // 2 + 2), title, TEXT, font(_LARGE))
    for number, line in enumerate(lines):
        left, y = GAP, GAP + 28 + 22 * number
        for colour, name in line:
            draw.rectangle((left, y + 2, left + 12, y + 14), outline=colour, width=3)
            draw.text((left + 18, y), name, TEXT, font(_NORMAL))
            left += 18 + text_width(name, _NORMAL) + 2 * GAP
    return picture, top


def _card(
    patch: PatchPair, spacing: tuple[float, float, float], colours: Mapping[int, tuple[int, int, int]]
) -> "Picture":
    """One patch: its title, before beside after, and the lines under them."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    window = _window(patch.before[0])
    panels = _panels(patch, spacing, window, colours)
    width = sum(panel.shape[1] + GAP // 2 for _, panel in panels) + GAP // 2
    # Narrow patches get room for their text.
    width = max(width, _NARROWEST)
    text = [wrapped for line in patch.lines or ["no transform acts on it"] for wrapped in _wrap(line, width - GAP)]
    tallest = max(panel.shape[0] for _, panel in panels)
    head, foot = 24, 18
    picture = Pillow.new("RGB", (width, head + foot + tallest + GAP // 2 + 17 * len(text) + GAP // 2), _CARD)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP // 2, 3), patch.title, TEXT, font(_NORMAL))
    left = GAP // 2
    for name, panel in panels:
        draw.text((left, head - 1), name, DIM, font(_SMALL))
        picture.paste(Pillow.fromarray(panel), (left, head + foot))
        left += panel.shape[1] + GAP // 2
    _write_lines(draw, text, head + foot + tallest + GAP // 2)
    return picture


def _write_lines(draw: "ImageDraw", lines: Sequence[str], top: int) -> None:
    for number, line in enumerate(lines):
        draw.text((GAP // 2, top + 17 * number), line, TEXT, font(_SMALL))


def _panels(
    patch: PatchPair,
    spacing: tuple[float, float, float],
    window: tuple[float, float],
    colours: Mapping[int, tuple[int, int, int]],
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Named pictures (H, W, 3): a plane of the patch as it lies, then of the augmented one; of a volume three."""
    image = patch.after[0]
    flat = image.shape[0] == 1
    extents = [size * step for size, step in zip(image.shape, spacing, strict=True)]
    scale = _SIDE_2D / max(extents[1:]) if flat else _SIDE_3D / max(extents)
    shown = [("before", patch.before, 0), ("after", patch.after, 0)]
    shown += [] if flat else [("after, across y", patch.after, 1), ("after, across x", patch.after, 2)]
    panels = []
    for name, (intensities, own_labels), axis in shown:
        index = busiest_slice(own_labels, axis)
        rest = [extent for other, extent in enumerate(extents) if other != axis]
        size = max(8, round(rest[0] * scale)), max(8, round(rest[1] * scale))
        planes = np.take(intensities, index, axis), np.take(own_labels, index, axis)
        panels.append((name, _picture(*planes, size, window, colours)))
    return panels


def _picture(
    image: FloatArray,
    labels: LabelArray,
    size: tuple[int, int],
    window: tuple[float, float],
    colours: Mapping[int, tuple[int, int, int]],
) -> NDArray[np.uint8]:
    """A plane (H, W) as a picture (*size, 3) with each label's outline."""
    from PIL import Image as Pillow

    low, high = window
    grey = np.rint(np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    large = np.asarray(Pillow.fromarray(grey).resize((size[1], size[0]), Pillow.Resampling.BILINEAR))
    pixels = np.repeat(large[:, :, None], 3, axis=2)
    rows = (np.arange(size[0]) * labels.shape[0]) // size[0]
    columns = (np.arange(size[1]) * labels.shape[1]) // size[1]
    shown = labels[np.ix_(rows, columns)]
    edges = outline(shown)
    for value in np.unique(shown[shown != 0]).tolist():
        pixels[edges & (shown == value)] = colours.get(value, class_colour(value))
    return pixels


def _window(image: FloatArray) -> tuple[float, float]:
    """Intensities shown black and white, before as after, so that what changes them can be seen."""
    low, high = np.percentile(image, (0.5, 99.5))
    return float(low), float(high)


def _wrap(line: str, width: int) -> list[str]:
    """A line of words in lines that fit the width."""
    lines = [""]
    for word in line.split(" "):
        longer = f"{lines[-1]} {word}".strip() if lines[-1] else word
        if lines[-1] and text_width(longer, _SMALL) > width:
            lines.append(f"    {word}")
        else:
            lines[-1] = longer
    return lines
