"""The inspect page: what a dataset is like, from what was seen of each of its cases."""

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from segplan import __version__
from segplan.dataset import Description
from segplan.errors import Problem
from segplan.reporting.charts import Row, box_chart, histogram, number, range_chart
from segplan.reporting.choose_cases import choose_cases
from segplan.reporting.page import chart, css_colour, keyed, page, table, tile
from segplan.reporting.style import class_colour
from segplan.reporting.survey import MEDIAN, CaseLook

MOST_THUMBNAILS = 30
_MOST_PROBLEMS = 300
_MOST_ROWS = 1000
_MOST_SMALL = 15
_MOST_CLASSES = 120
_SPECK = 10  # voxels
_WHOLE = (128, 136, 146)
_TIMES = "×\u200b"  # a line may break after it


@dataclass(frozen=True)
class Survey:
    """All that the page shows.

    Attributes:
        name: the dataset folder's.
        folder: its path, which the page leaves out of messages: it may be passed on.
        description: of the dataset.
        looks: of every case that could be opened, in the dataset's order.
        problems: of the layout and of the dataset as a whole; those of the cases stand in `looks`.
    """

    name: str
    folder: str
    description: Description
    looks: Sequence[CaseLook]
    problems: Sequence[Problem]

    @property
    def all_problems(self) -> list[Problem]:
        """Every finding, the fatal ones first."""
        found = [*self.problems, *(problem for look in self.looks for problem in look.problems)]
        return sorted(found, key=lambda problem: not problem.fatal)

    @property
    def classes(self) -> list[tuple[str, tuple[int, ...], tuple[int, int, int]]]:
        """Name, label values and colour of each class (label or region)."""
        targets = self.description.labels.targets
        return [(name, values, class_colour(place)) for place, (name, values) in enumerate(targets.items(), start=1)]

    @property
    def measured(self) -> list[CaseLook]:
        """Cases whose label map could be measured."""
        return [look for look in self.looks if look.targets]

    @property
    def flat(self) -> bool:
        """Whether these are 2D pictures."""
        return bool(self.looks) and all(look.flat or look.shape is None for look in self.looks)


def inspect_page(survey: Survey) -> str:
    """The HTML of the page."""
    parts = [
        f"<h1>{escape(survey.name).replace('_', '_<wbr>')}</h1>",
        f'<p class="dim">{escape(_subtitle(survey))}</p>',
        _tiles(survey),
        *_verification(survey),
        *_geometry(survey),
        *_intensities(survey),
        *_labels(survey),
        *_thumbnails(survey),
        *_case_list(survey),
        f"<footer>Made by segplan {escape(__version__)} from {len(survey.looks)} cases. This page is one file that "
        "loads nothing and can be passed on; it shows slices of the images.</footer>",
    ]
    return page(f"{survey.name} · inspect", parts)


def _subtitle(survey: Survey) -> str:
    raw = survey.description.raw
    title = str(raw.get("name") or "")
    licence = raw.get("licence") or raw.get("license")
    words = [title if title != survey.name else "", str(raw.get("description") or ""), f"{licence}" if licence else ""]
    return " · ".join(word for word in words if word)


def _tiles(survey: Survey) -> str:
    fatal = sum(problem.fatal for problem in survey.all_problems)
    notes = len(survey.all_problems) - fatal
    status, kind = (
        (f"{fatal} to mend", "bad")
        if fatal
        else (f"{notes} note{'s' if notes > 1 else ''}", "note")
        if notes
        else ("no findings", "good")
    )
    tiles = [
        tile(str(len(survey.looks)), "cases"),
        tile(", ".join(survey.description.channel_names), "channels"),
        tile(str(len(survey.classes)), "regions" if survey.description.labels.has_regions else "classes"),
    ]
    seen = [look for look in survey.looks if look.shape is not None and look.spacing is not None]
    if seen:
        shape = np.median([look.shape for look in seen if look.shape], axis=0)
        spacing = np.median([look.spacing for look in seen if look.spacing], axis=0)
        axes = slice(None, 0, -1) if survey.flat else slice(None, None, -1)
        unit = "pixels" if survey.flat else "voxels"
        tiles.append(tile(_TIMES.join(f"{size:.0f}" for size in shape[axes]), f"median size ({unit})"))
        if _has_scale(survey):
            tiles.append(tile(_TIMES.join(f"{step:.3g}" for step in spacing[axes]), "median spacing (mm)"))
    return f'<div class="tiles">{"".join([*tiles, tile(status, "verification", kind)])}</div>'


def _verification(survey: Survey) -> list[str]:
    problems = survey.all_problems
    if not problems:
        text = "Every file could be read; images and label maps fit each other, and all label values are known."
        return ["<h2>Verification</h2>", f"<p>{text}</p>"]
    fatal = sum(problem.fatal for problem in problems)
    text = "Nothing stops planning."
    if fatal:
        text = f"{fatal} problem{'s stop' if fatal > 1 else ' stops'} planning until mended."
    rows = [
        [
            '<span class="tag bad">problem</span>' if problem.fatal else '<span class="tag note">note</span>',
            escape(problem.case or "dataset"),
            escape(problem.what.replace(f"{survey.folder}/", "")),
            escape(problem.remedy),
        ]
        for problem in problems[:_MOST_PROBLEMS]
    ]
    more = f"<p>{len(problems) - len(rows)} more are left out here.</p>" if len(problems) > len(rows) else ""
    body = table(["", "case", "what", "what to do"], rows, "ttww", stacks=True)
    return ["<h2>Verification</h2>", f"<p>{text}</p>", body, more]


def _geometry(survey: Survey) -> list[str]:
    seen = [look for look in survey.looks if look.shape is not None and look.spacing is not None]
    if not seen:
        return []
    axes = (("x", 2), ("y", 1)) if survey.flat else (("x", 2), ("y", 1), ("z", 0))
    scaled, unit = _has_scale(survey), "pixels" if survey.flat else "voxels"
    charts: list[str] = []
    same: list[str] = []
    for name, axis in axes:
        sizes = [float(look.shape[axis]) for look in seen if look.shape]
        if len(set(sizes)) > 1:
            charts.append(chart(histogram(sizes, f"size along {name}", unit)))
        else:
            same.append(f"size along {name} {sizes[0]:.0f} {unit}")
    steps = [tuple(round(look.spacing[axis], 4) for _, axis in axes) for look in seen if look.spacing]
    if scaled and len(set(steps)) == 1:
        same.append(f"spacing {'×'.join(f'{step:.4g}' for step in steps[0])} mm")
    elif scaled:
        for place, (name, _) in enumerate(axes):
            charts.append(chart(histogram([step[place] for step in steps], f"spacing along {name}", "mm")))
    parts = ["<h2>Sizes and spacings</h2>", f'<div class="charts">{"".join(charts)}</div>' if charts else ""]
    if same:
        parts.append(f"<p>The same in all cases: {escape(', '.join(same))}.</p>")
    codes = Counter(look.orientation for look in seen if look.orientation)
    if codes:
        shown = ", ".join(f"{code} ({count})" for code, count in codes.most_common(8))
        parts.append(f"<p>Orientation, where the axes x, y, z point: {escape(shown)}.</p>")
    if survey.flat and not scaled:
        parts.append("<p>Pictures: they say nothing of a size in millimetres.</p>")
    return parts


def _thumbnails(survey: Survey) -> list[str]:
    chosen = choose_cases(survey.looks, [name for name, _, _ in survey.classes], MOST_THUMBNAILS)
    if not chosen:
        return []
    total = sum(look.thumbnail is not None for look in survey.looks)
    text = "The slice that shows most of the classes, seen from the patient's feet, front or head up."
    if survey.flat:
        text = "The pictures with the outlines of their labels."
    if len(survey.description.channel_names) > 1 and not survey.flat:
        text += f" Channel shown: {survey.description.channel_names[0]}."
    if len(chosen) < total:
        text += (
            f" {len(chosen)} of {total} cases: those with problems, those with the largest and smallest classes, the "
            "brightest and darkest, and others in even steps."
        )
    if total < len(survey.looks):
        text += f" Without the {len(survey.looks) - total} that cannot be read."
    legend = [f"<span>{keyed(colour, name)}</span>" for name, _, colour in survey.classes[:_MOST_CLASSES]]
    if survey.description.labels.ignore is not None:
        legend.append(f"<span>{keyed((150, 150, 150), 'not annotated')}</span>")
    figures = [_figure(look, reason) for look, reason in chosen]
    return [
        "<h2>Pictures</h2>",
        f"<p>{escape(text)}</p>",
        f'<div class="legend">{"".join(legend)}</div>',
        '<input type="checkbox" id="outlines" checked> <label for="outlines">show outlines</label>',
        f'<div class="shots">{"".join(figures)}</div>',
    ]


def _figure(look: CaseLook, reason: str) -> str:
    shot = look.thumbnail
    if shot is None:
        return ""
    width, height = shot.size
    share = f"width:{100 * width / max(width, height):.1f}%;aspect-ratio:{width}/{height}"
    images = f'<img alt="slice of {escape(look.identifier, quote=True)}" src="{_data("jpeg", shot.picture)}">'
    if shot.outlines is not None:
        images += f'<img class="over" alt="" src="{_data("png", shot.outlines)}">'
    words = " · ".join(word for word in (shot.slice_name, reason) if word)
    caption = f"<figcaption><b>{escape(look.identifier)}</b>{escape(words)}</figcaption>"
    return f'<figure><div class="shot"><span style="{share}">{images}</span></div>{caption}</figure>'


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _intensities(survey: Survey) -> list[str]:
    seen = [look for look in survey.looks if look.channels]
    charts = []
    for channel, name in enumerate(survey.description.channel_names):
        looks = [look for look in seen if len(look.channels) > channel]
        if not looks:
            continue
        rows = [_intensity_row("whole image", _WHOLE, [look.channels[channel] for look in looks])]
        for place, (target, _, colour) in enumerate(survey.classes[:_MOST_CLASSES]):
            inside = [
                look.targets[place].intensities[channel]
                for look in survey.measured
                if len(look.targets[place].intensities) > channel
            ]
            if inside:
                rows.append(_intensity_row(target, colour, inside))
        charts.append(chart(box_chart(rows, f"{name}: by class", "intensity")))
        cases = []
        for look in looks:
            low, middle, high = (look.channels[channel][place] for place in (1, MEDIAN, 5))
            cases.append((look.identifier, low, middle, high))
        charts.append(chart(range_chart(cases, f"{name}: case by case")))
    if not charts:
        return []
    text = (
        "A box holds half of a class's voxels, its line nine in ten, each case weighing the same. In the other chart "
        "each line is a case, from its 5th to its 95th percentile with the median as a dot: one that sticks out is an "
        "image of another scale, unit or machine."
    )
    return ["<h2>Intensities</h2>", f"<p>{text}</p>", f'<div class="charts">{"".join(charts)}</div>']


def _intensity_row(name: str, colour: tuple[int, int, int], cases: Sequence[Sequence[float]]) -> Row:
    low, first, middle, last, high = np.median(np.array(cases), axis=0)[1:6].tolist()
    return Row(name, css_colour(colour), (low, first, middle, last, high))


def _labels(survey: Survey) -> list[str]:
    measured = survey.measured
    if not measured:
        return []
    size, unit = _size_of(survey)
    rows, lines = [], []
    for place, (name, values, colour) in enumerate(survey.classes):
        present = [look for look in measured if look.targets[place].voxels]
        sizes = {look.identifier: size(look, look.targets[place].voxels) for look in present}
        value = ", ".join(map(str, values))
        head = [keyed(colour, name), escape(value), f"{len(present)} of {len(measured)}"]
        if not present:
            lines.append([*head, *("–",) * 5])
            continue
        rows.append(_volume_row(name, colour, sizes))
        objects = [look.targets[place].objects for look in present]
        smallest = min(present, key=lambda look: look.targets[place].smallest)
        amounts = sorted(sizes.values())
        lines.append(
            [
                *head,
                number(float(np.median(amounts))),
                f"{number(amounts[0])} to {number(amounts[-1])}",
                f"{np.median(objects):.0f}",
                str(max(objects)),
                f"{smallest.targets[place].smallest} <span class=dim>({escape(smallest.identifier)})</span>",
            ]
        )
    heads = [
        "class",
        "value",
        "in cases",
        f"median {unit}",
        f"range {unit}",
        "objects a case",
        "most",
        "smallest object",
    ]
    parts = ["<h2>Labels</h2>", table(heads, lines, "ttnnnnnn")]
    if rows:
        charts = [chart(box_chart(rows[:_MOST_CLASSES], "size a case, where present", unit))]
        parts += [f'<div class="charts" style="margin-top:.8rem">{"".join(charts)}</div>']
    ignored = [look.ignored for look in measured if look.ignored]
    if ignored:
        parts.append(
            f"<p>{len(ignored)} cases have voxels that are not annotated (value {survey.description.labels.ignore}): "
            f"{100 * float(np.median(ignored)):.3g} % of the image in the median.</p>"
        )
    return [*parts, *_small_objects(survey)]


def _volume_row(name: str, colour: tuple[int, int, int], sizes: Mapping[str, float]) -> Row:
    low, first, middle, last, high = np.percentile(list(sizes.values()), (5, 25, 50, 75, 95)).tolist()
    beyond = [(value, case) for case, value in sizes.items() if value < low or value > high]
    beyond.sort(key=lambda entry: -abs(entry[0] - middle))
    return Row(name, css_colour(colour), (low, first, middle, last, high), tuple(beyond))


def _small_objects(survey: Survey) -> list[str]:
    """The smallest objects of all cases: mostly slips of the brush."""
    found = [
        (look.targets[place], name, colour, look)
        for look in survey.measured
        for place, (name, _, colour) in enumerate(survey.classes)
        if look.targets[place].objects > 1
    ]
    found.sort(key=lambda entry: entry[0].smallest)
    specks = sum(entry[0].smallest < _SPECK for entry in found)
    head = "<h3>Smallest objects</h3>"
    if not found:
        return [head, "<p>Every class is one connected object in every case.</p>"]
    text = "Of cases where a class has several objects."
    if specks:
        often = "Once" if specks == 1 else f"{specks} times"
        text += f" {often} the smallest has fewer than {_SPECK} voxels: look whether it is a slip of the brush."
    rows = []
    for target, name, colour, look in found[:_MOST_SMALL]:
        indices = () if target.place is None else target.place[::-1][: 2 if survey.flat else 3]
        place = ", ".join(map(str, indices))
        rows.append([keyed(colour, name), escape(look.identifier), str(target.smallest), str(target.objects), place])
    unit, where = ("pixels", "at x, y (from 0)") if survey.flat else ("voxels", "at voxel x, y, z (from 0)")
    return [head, f"<p>{text}</p>", table(["class", "case", unit, "objects", where], rows, "ttnnt")]


def _case_list(survey: Survey) -> list[str]:
    size, unit = _size_of(survey)
    names = [name for name, _, _ in survey.classes][:8]
    rows = []
    for look in survey.looks[:_MOST_ROWS]:
        if look.shape is None or look.spacing is None:
            rows.append([escape(look.identifier), "not readable", *("–",) * (len(names) + 1)])
            continue
        shape = "×".join(str(extent) for extent in reversed(look.shape))
        spacing = "×".join(f"{step:.4g}" for step in reversed(look.spacing)) if _has_scale(survey) else "–"
        sizes = [number(size(look, target.voxels)) for target in look.targets[: len(names)]] or ["–"] * len(names)
        rows.append([escape(look.identifier), shape, spacing, *sizes])
    if not rows:
        return []
    heads = ["case", "size x×y×z", "spacing (mm)", *(f"{escape(name)} ({unit})" for name in names)]
    more = f"<p>The first {len(rows)} of {len(survey.looks)}.</p>" if len(rows) < len(survey.looks) else ""
    body = table(heads, rows, "tnn" + "n" * len(names))
    return ["<h2>Cases</h2>", f"<details><summary>All {len(rows)} cases</summary>{more}{body}</details>"]


def _has_scale(survey: Survey) -> bool:
    """Whether spacings are millimetres; pictures have none."""
    return any(
        look.shape is not None and not (look.flat and look.spacing == (999.0, 1.0, 1.0)) for look in survey.looks
    )


def _size_of(survey: Survey) -> tuple[Callable[[CaseLook, int], float], str]:
    """How much a number of voxels is, and its unit: millilitres, or for 2D a share of the picture."""
    if survey.flat:
        return lambda look, voxels: 100 * voxels / max(1, int(np.prod(look.shape or (1,)))), "% of the picture"
    return lambda look, voxels: voxels * float(np.prod(look.spacing or (1.0,))) / 1000, "ml"
