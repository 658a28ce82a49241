"""Small charts as SVG text: histograms, boxes by class, and the range of every case. Plain functions of numbers.

They are 340 units wide, so that they are read at about that many pixels on a phone and side by side on a desk. Colours
of axes and text come from the page's style, so that both its light and its dark one fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 340
_MARGIN = 12
_AXIS = 22
_ROW = 38
_DENSE_FROM = 10
_DENSE_ROW = 17
_NAMES_WIDTH = 118
_LONG_AXIS = 240  # units: it has room for five numbers
_BINS = 24
_MOST_OUTLIERS = 25
_MOST_CASES = 320
_LOG_FROM = 30.0
_UNITS = ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " k"))  # from where, by what, name


@dataclass(frozen=True)
class Row:
    """A line of a box chart.

    Attributes:
        name: of the class.
        colour: CSS colour.
        box: five values: 5th, 25th, 50th, 75th and 95th percentile.
        outliers: (value, what it is) beyond the box's whiskers.
    """

    name: str
    colour: str
    box: tuple[float, float, float, float, float]
    outliers: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels along an axis of `length` that starts at `start`."""

    low: float
    high: float
    log: bool
    start: float
    length: float

    def __call__(self, value: float) -> float:
        """Where a value stands; beyond the ends, at the end."""
        low, high, at = (self._warped(each) for each in (self.low, self.high, value))
        share = 0.5 if high <= low else (at - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * self.length

    def _warped(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value

    def ticks(self, *, whole: bool = False) -> list[float]:
        """Round values within the axis, three to five or so; whole numbers only, where these are asked for."""
        if self.high <= self.low:
            return [self.low]
        if self.log:
            first, last = math.ceil(self._warped(self.low) - 1e-9), math.floor(self._warped(self.high) + 1e-9)
            powers = [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / 4)))]
            return powers if len(powers) > 1 else [self.low, self.high]
        raw = max((self.high - self.low) / (4 if self.length > _LONG_AXIS else 2), 1.0 if whole else 0.0)
        power = 10.0 ** math.floor(math.log10(raw))
        step = min(
            (factor * power for factor in ((1.0, 2.0, 5.0, 10.0) if whole else (1.0, 2.0, 2.5, 5.0, 10.0))),
            key=lambda each: abs(each - raw),
        )
        return [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def number(value: float) -> str:
    """A number as short as it is still told apart: 1.2 M, 350, 0.75."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, divisor, unit in _UNITS:
        if size >= limit:
            return f"{value / divisor:.3g}{unit}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if size >= 1e-3 else f"{value:.0e}"


def histogram(values: Sequence[float], label: str, unit: str) -> str:
    """Bars of how many cases lie in which range; of whole numbers, each range has the same number of them."""
    whole = all(value == round(value) for value in values)
    low, high = min(values), max(values)
    if whole:
        span = float(max(1, math.ceil((high - low + 1) / _BINS)))
        low, bins = low - 0.5, math.ceil((high - low + 1) / span)
    else:
        span, bins = (high - low) / _BINS or 1.0, _BINS
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / span))] += 1
    top, height = 22, 84
    scale = Scale(low, low + bins * span, False, _MARGIN, WIDTH - 2 * _MARGIN)
    width = scale.length / bins
    bars = []
    for place, count in enumerate(counts):
        if count:
            tall = max(2.0, height * count / max(counts))
            first, last = low + place * span, low + (place + 1) * span
            between = f"{first + 0.5:.0f} to {last - 0.5:.0f}" if whole else f"{number(first)} to {number(last)}"
            bars.append(
                f'<rect class="bar" x="{scale.start + place * width + 0.5:.1f}" y="{top + height - tall:.1f}" '
                f'width="{max(width - 1, 0.5):.1f}" height="{tall:.1f}">'
                f"<title>{count} cases, {escape(between)} {escape(unit)}</title></rect>"
            )
    body = [text(_MARGIN, 12, f"{label} ({unit})"), *bars, *axis(scale, top + height, whole=whole)]
    return svg(top + height + _AXIS, f"{label}: {number(min(values))} to {number(max(values))} {unit}", body)


def box_chart(rows: Sequence[Row], label: str, unit: str) -> str:
    """A box of each class above one axis; logarithmic where the values span more than a factor of 30."""
    values = [value for row in rows for value in (*row.box, *(each for each, _ in row.outliers))]
    log = min(values) > 0 and max(values) > _LOG_FROM * min(values)
    dense = len(rows) > _DENSE_FROM  # then names stand to the left of their boxes, not above
    left, step = (_NAMES_WIDTH, _DENSE_ROW) if dense else (_MARGIN, _ROW)
    scale = Scale(min(values), max(values), log, left, WIDTH - _MARGIN - left)
    body = [text(_MARGIN, 12, f"{label} ({unit}{', log scale' if log else ''})")]
    for place, row in enumerate(rows):
        body.append(_box(row, scale, 22 + place * step, unit, dense=dense))
    bottom = 24 + len(rows) * step
    body += axis(scale, bottom)
    return svg(bottom + _AXIS, label, body)


def range_chart(cases: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """A line from low to high with a dot at the middle for each case, in order of the middle; at most 320 of them.

    Args:
        cases: (name, low, middle, high).
        label: what the values are.
    """
    ordered = sorted(cases, key=lambda case: case[2])
    if len(ordered) > _MOST_CASES:
        step = (len(ordered) - 1) / (_MOST_CASES - 1)
        ordered = [ordered[round(step * place)] for place in range(_MOST_CASES)]
    floor = min(case[1] for case in ordered)
    top_value = max(case[3] for case in ordered)
    positive = sorted(case[3] for case in ordered if case[3] > 0)
    log = floor >= 0 and bool(positive) and top_value > _LOG_FROM * positive[len(positive) // 2]
    low = max(floor, positive[0] * 1e-3) if log else floor
    height, top, left = 130, 20, 44
    scale = Scale(low, top_value, log, 0, height)
    gap = (WIDTH - left - _MARGIN) / len(ordered)
    body = [text(_MARGIN, 12, f"{label}{' (log scale)' if log else ''}")]
    for tick in scale.ticks():
        y = top + height - scale(tick)
        body.append(f'<line class="grid" x1="{left}" x2="{WIDTH - _MARGIN}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text class="tick" x="{left - 4}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    for place, (name, first, middle, last) in enumerate(ordered):
        x = left + (place + 0.5) * gap
        y1, y2, y = (top + height - scale(value) for value in (first, last, middle))
        body.append(
            f"<g><title>{escape(name)}: {number(first)} to {number(last)}, median {number(middle)}</title>"
            f'<line class="range" x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" '
            f'stroke-width="{min(6.0, max(0.7, gap * 0.6)):.1f}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{min(2.5, max(0.9, gap * 0.45)):.1f}"/></g>'
        )
    return svg(top + height + 8, label, body)


def _box(row: Row, scale: Scale, top: float, unit: str, *, dense: bool) -> str:
    low, first, middle, last, high = (scale(value) for value in row.box)
    centre, half = (top + 7, 4) if dense else (top + 24, 6)
    longest = 17 if dense else 44
    texts = [number(value) for value in row.box]
    hint = (
        f"{row.name}: median {texts[2]}, half between {texts[1]} and {texts[3]}, most {texts[0]} to {texts[4]} {unit}"
    )
    parts = [
        f"<g><title>{escape(hint)}</title>",
        text(_MARGIN, top + 10, _shortened(row.name, longest), "name"),
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{centre}" y2="{centre}" stroke="{row.colour}" stroke-width="2"/>',
        f'<rect x="{first:.1f}" y="{centre - half}" width="{max(last - first, 2):.1f}" height="{2 * half}" rx="2" '
        f'fill="{row.colour}" fill-opacity="0.75"/>',
        f'<line class="median" x1="{middle:.1f}" x2="{middle:.1f}" y1="{centre - half - 1}" '
        f'y2="{centre + half + 1}"/></g>',
    ]
    for value, name in row.outliers[:_MOST_OUTLIERS]:
        parts.append(
            f'<circle cx="{scale(value):.1f}" cy="{centre}" r="2.5" fill="none" stroke="{row.colour}" '
            f'stroke-width="1.2"><title>{escape(name)}: {number(value)} {escape(unit)}</title></circle>'
        )
    return "".join(parts)


def _shortened(name: str, longest: int) -> str:
    """The name without its middle, if it is too long: numbered classes differ at the end."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def axis(scale: Scale, y: float, *, whole: bool = False) -> list[str]:
    """A horizontal axis with its numbers below."""
    parts = [f'<line class="axis" x1="{scale.start}" x2="{WIDTH - _MARGIN}" y1="{y}" y2="{y}"/>']
    for tick in scale.ticks(whole=whole):
        x = scale(tick)
        anchor = "start" if x < scale.start + _MARGIN else "end" if x > WIDTH - 2 * _MARGIN else "middle"
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 16}" text-anchor="{anchor}">{number(tick)}</text>')
    return parts


def text(x: float, y: float, words: str, kind: str = "head") -> str:
    """A line of text; its kind is a class of the page's style."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>'


def svg(height: float, label: str, body: Sequence[str]) -> str:
    """The whole picture, `WIDTH` wide."""
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label, quote=True)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(body)}</svg>'
