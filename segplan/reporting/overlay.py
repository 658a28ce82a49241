"""Pictures of a segmentation beside its reference: three planes of a volume, or one of a 2D image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segplan.evaluation import Targets, case_metrics
from segplan.imaging import atomic_write
from segplan.reporting.planes import Plane, cut_planes, grey_window
from segplan.reporting.style import BACKGROUND, DIM, GAP, TEXT, class_colour, font, text_width

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

_FILL = 0.32  # share of the class colour inside; the outline is opaque
_OUTLINE = 2  # pixels
_LINE = 24  # pixels a line of text

LabelArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Entry:
    """A line of the legend: a class, its colour, its name and its Dice."""

    colour: tuple[int, int, int]
    text: str


def write_overlay(
    path: Path,
    image: NDArray[np.float32],
    reference: LabelArray | None,
    prediction: LabelArray,
    spacing: tuple[float, float, float],
    *,
    names: Mapping[int, str],
    title: str,
) -> None:
    """Write a PNG: a row for each plane, with the image, the reference and the prediction side by side.

    The planes pass through where the reference (or, without one, the prediction) shows most of its classes. The columns
    of Dice in the legend are those of the whole volume.

    Args:
        path: the file to write.
        image: (C, Z, Y, X); three channels of one slice are shown in colour, else the first channel in grey.
        reference: (Z, Y, X), or None where there is none.
        prediction: (Z, Y, X).
        spacing: mm along (z, y, x); corrects the planes' aspect.
        names: name of each label value but 0; others are shown by number.
        title: the picture's headline.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    planes = cut_planes(image, reference, prediction, spacing)
    window = grey_window(image[0], prediction if reference is None else reference)
    rows = [_row(plane, window) for plane in planes]
    columns = ["image", "prediction"] if reference is None else ["image", "reference", "prediction"]
    picture = _compose(rows, [plane.name for plane in planes], columns, title, _legend(reference, prediction, names))
    with atomic_write(path) as temporary:
        picture.save(temporary)


def _row(plane: Plane, window: tuple[float, float]) -> list[NDArray[np.uint8]]:
    """The panels (H, W, 3) of a plane: image, reference if there is one, prediction."""
    base = _base(plane, window)
    maps = [labels for labels in (plane.reference, plane.prediction) if labels is not None]
    return [base, *(_painted(base, labels) for labels in maps)]


def _base(plane: Plane, window: tuple[float, float]) -> NDArray[np.uint8]:
    """The plane's image as a picture (H, W, 3) of the plane's pixel size."""
    from PIL import Image as Pillow

    if len(plane.image) == 3:
        pixels = np.clip(plane.image, 0, 255).transpose(1, 2, 0)
    else:
        low, high = window
        grey = np.clip((plane.image[0] - low) / max(high - low, 1e-6), 0, 1) * 255
        pixels = np.repeat(grey[:, :, None], 3, axis=2)
    height, width = plane.pixels
    resized = Pillow.fromarray(np.rint(pixels).astype(np.uint8)).resize((width, height), Pillow.Resampling.BICUBIC)
    return np.asarray(resized, np.uint8)


def _painted(base: NDArray[np.uint8], labels: LabelArray) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with each class of the label map tinted and outlined."""
    rows = (np.arange(base.shape[0]) * labels.shape[0]) // base.shape[0]
    columns = (np.arange(base.shape[1]) * labels.shape[1]) // base.shape[1]
    large = labels[np.ix_(rows, columns)]
    edges = outline(large)
    painted = base.astype(np.float32)
    for value in np.unique(large[large != 0]).tolist():
        inside = large == value
        colour = np.asarray(class_colour(value), np.float32)
        painted[inside] = (1 - _FILL) * painted[inside] + _FILL * colour
        painted[inside & edges] = colour
    return np.rint(painted).astype(np.uint8)


def outline(labels: LabelArray) -> NDArray[np.bool_]:
    """Pixels of a class within `_OUTLINE` pixels of another class, (H, W)."""
    found = np.zeros(labels.shape, bool)
    padded = np.pad(labels, _OUTLINE, mode="edge")
    height, width = labels.shape
    for shift in range(-_OUTLINE, _OUTLINE + 1):
        along = padded[_OUTLINE + shift : _OUTLINE + shift + height, _OUTLINE : _OUTLINE + width]
        across = padded[_OUTLINE : _OUTLINE + height, _OUTLINE + shift : _OUTLINE + shift + width]
        found |= (along != labels) | (across != labels)
    return found


def _legend(reference: LabelArray | None, prediction: LabelArray, names: Mapping[int, str]) -> list[_Entry]:
    """A line for each class that occurs, with its Dice where there is a reference."""
    present = set(np.unique(prediction).tolist()) | (set() if reference is None else set(np.unique(reference).tolist()))
    values = sorted(present - {0})
    label_of = {value: names.get(value, f"label {value}") for value in values}
    if reference is None:
        return [_Entry(class_colour(value), label_of[value]) for value in values]
    scores = case_metrics(prediction, reference, Targets.from_values(values))
    return [
        _Entry(class_colour(value), f"{label_of[value]} (Dice {scores[str(value)]['Dice']:.3f})") for value in values
    ]


def _compose(
    rows: list[list[NDArray[np.uint8]]], row_names: list[str], columns: list[str], title: str, legend: list[_Entry]
) -> "Picture":
    """Title, column heads, panels with their planes' names, and the legend on one canvas."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    cell = max(panel.shape[1] for row in rows for panel in row)
    width = max(GAP + len(columns) * (cell + GAP), GAP * 2 + text_width(title, 18))
    lines = _wrap(legend, width)
    height = 2 * _LINE + GAP + sum(row[0].shape[0] + _LINE for row in rows) + GAP + len(lines) * _LINE + GAP
    picture = Pillow.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP // 2), title, TEXT, font(18))
    for index, name in enumerate(columns):
        draw.text((GAP + index * (cell + GAP), _LINE + GAP), name, TEXT, font(14))
    top = 2 * _LINE + GAP
    for row, name in zip(rows, row_names, strict=True):
        for index, panel in enumerate(row):
            left = GAP + index * (cell + GAP) + (cell - panel.shape[1]) // 2
            picture.paste(Pillow.fromarray(panel), (left, top))
        draw.text((GAP, top + row[0].shape[0] + 2), name, DIM, font(12))
        top += row[0].shape[0] + _LINE
    _draw_legend(draw, lines, top + GAP)
    return picture


def _wrap(legend: list[_Entry], width: int) -> list[list[_Entry]]:
    """The legend's entries in lines that fit the width."""
    lines: list[list[_Entry]] = [[]]
    used = GAP
    for entry in legend:
        size = _entry_width(entry)
        if lines[-1] and used + size > width:
            lines.append([])
            used = GAP
        lines[-1].append(entry)
        used += size
    return lines


def _entry_width(entry: _Entry) -> int:
    return 20 + text_width(entry.text, 14) + 2 * GAP


def _draw_legend(draw: "ImageDraw", lines: list[list[_Entry]], top: int) -> None:
    for number, line in enumerate(lines):
        left, y = GAP, top + number * _LINE
        for entry in line:
            draw.rectangle((left, y + 2, left + 13, y + 15), fill=entry.colour)
            draw.text((left + 20, y), entry.text, TEXT, font(14))
            left += _entry_width(entry)
