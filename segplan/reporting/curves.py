"""Line and scatter charts as SVG text, in the size and manner of `charts`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from segplan.reporting.charts import WIDTH, Scale, number, svg, text

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 24, 30
_HEIGHT = 150
_MOST_POINTS = 400
_LEAST_SPAN = 1e-6
_LOG_FROM = 30.0


@dataclass(frozen=True)
class Line:
    """A curve: its name, its CSS colour, its points (x, y), and whether it is dashed."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """A mark of a scatter chart: where it is, its CSS colour, and what a pointer over it says."""

    x: float
    y: float
    colour: str
    hint: str


def line_chart(lines: Sequence[Line], label: str, across: str, span: tuple[float, float] | None = None) -> str:
    """Curves over one axis; "" where no line has two points.

    Args:
        lines: the curves; values that are no numbers are left out.
        label: what they show.
        across: name of the horizontal axis.
        span: lowest and highest value shown; None: those that occur.
    """
    drawn = [(line, _thinned([at for at in line.points if all(map(math.isfinite, at))])) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not any(len(points) > 1 for _, points in drawn):
        return ""
    values = [y for _, points in drawn for _, y in points]
    low, high = span or _padded(min(values), max(values))
    first, last = min(at[0] for _, points in drawn for at in points), max(at[0] for _, points in drawn for at in points)
    x_scale, y_scale = _scales((first, last), (low, high), log=False)
    body = [text(12, 12, label), *_grid(x_scale, y_scale, across, whole=True)]
    for line, points in drawn:
        path = " ".join(f"{x_scale(x):.1f},{_up(y_scale, y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6" stroke-linejoin="round"'
            f"{dash}><title>{escape(line.name)}: last {number(points[-1][1])}</title></polyline>"
        )
    return svg(_TOP + _HEIGHT + _BOTTOM, label, body)


def scatter_chart(points: Sequence[Point], label: str, across: str) -> str:
    """Marks above a line of equal values, both axes alike; logarithmic where the values span more than a factor of 30.

    Args:
        points: at least one.
        label: what the vertical axis shows.
        across: what the horizontal one shows.
    """
    values = [value for point in points for value in (point.x, point.y)]
    positive = [value for value in values if value > 0]
    log = bool(positive) and max(positive) > _LOG_FROM * min(positive)
    span = (min(positive) * 0.8, max(positive) * 1.25) if log else (0.0, max([*values, _LEAST_SPAN]) * 1.05)
    x_scale, y_scale = _scales(span, span, log=log)
    zeros = log and len(positive) < len(values)
    words = f"{label}{' (log scale' + (', none: at the edge' if zeros else '') + ')' if log else ''}"
    body = [text(12, 12, words), *_grid(x_scale, y_scale, across, whole=False)]
    ends = [(x_scale(value), _up(y_scale, value)) for value in span]
    body.append(
        f'<line class="axis" x1="{ends[0][0]:.1f}" y1="{ends[0][1]:.1f}" x2="{ends[1][0]:.1f}" y2="{ends[1][1]:.1f}" '
        'stroke-dasharray="4 3"/>'
    )
    for point in points:
        body.append(
            f'<circle cx="{x_scale(point.x):.1f}" cy="{_up(y_scale, point.y):.1f}" r="3" fill="{point.colour}" '
            f'fill-opacity="0.75"><title>{escape(point.hint)}</title></circle>'
        )
    return svg(_TOP + _HEIGHT + _BOTTOM, f"{label} against {across}", body)


def _scales(across: tuple[float, float], up: tuple[float, float], *, log: bool) -> tuple[Scale, Scale]:
    return (
        Scale(*across, log, _LEFT, WIDTH - _LEFT - _RIGHT),
        Scale(*up, log, 0, _HEIGHT),
    )


def _up(scale: Scale, value: float) -> float:
    return _TOP + _HEIGHT - scale(value)


def _grid(x_scale: Scale, y_scale: Scale, across: str, *, whole: bool) -> list[str]:
    parts = []
    for tick in y_scale.ticks():
        y = _up(y_scale, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 4}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    bottom = _TOP + _HEIGHT
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for tick in x_scale.ticks(whole=whole):
        x = x_scale(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - _RIGHT}" y="{bottom + 27}" text-anchor="end">{escape(across)}</text>')
    return parts


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or max(abs(low) * 0.05, _LEAST_SPAN)
    return low - room, high + room


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most `_MOST_POINTS` points in even steps, the last one among them."""
    if len(points) <= _MOST_POINTS:
        return points
    step = (len(points) - 1) / (_MOST_POINTS - 1)
    return [points[round(place * step)] for place in range(_MOST_POINTS)]
