"""Charts are well-formed SVG that shows the values it was given."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from segplan.reporting.charts import Row, box_chart, histogram, number, range_chart

SVG = "{http://www.w3.org/2000/svg}"


def titles(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def test_a_histogram_of_whole_numbers_counts_every_case():
    values = [30, 30, 31, 33, 60, 75]
    found = titles(histogram(values, "size", "voxels"))
    assert sum(int(text.split()[0]) for text in found) == len(values)
    assert found[0] == "3 cases, 30 to 31 voxels"


@pytest.mark.parametrize("values", [[5.0], [1, 1], [0.25, 0.5, 0.9], [1e-4, 2e7], list(range(1000))])
def test_a_histogram_takes_any_values(values):
    assert sum(int(text.split()[0]) for text in titles(histogram(values, "a", "mm"))) == len(values)


def coordinates(svg):
    root = ElementTree.fromstring(svg)
    names = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height")
    return [float(element.get(name)) for element in root.iter() for name in names if element.get(name)], root


def test_boxes_escape_names_and_become_logarithmic_over_wide_ranges():
    row = Row('<liver> & "co"', "#ff0000", (1, 2, 3, 4, 5), ((9, "case <1>"),))
    svg = box_chart([row], "volume", "ml")
    assert any('<liver> & "co"' in text for text in titles(svg))
    assert "case <1>: 9 ml" in titles(svg)
    assert "log" not in svg
    assert "log scale" in box_chart([row, Row("b", "#0f0", (1, 2, 3, 4, 500))], "volume", "ml")


@pytest.mark.parametrize("boxes", [[(0, 0, 0, 0, 0)], [(-5, -1, 0, 1, 5)], [(7, 7, 7, 7, 7), (7, 7, 7, 7, 7)]])
def test_boxes_stay_inside_the_picture(boxes):
    numbers, root = coordinates(box_chart([Row("a", "#000", box) for box in boxes], "x", "mm"))
    height = float(root.get("viewBox").split()[3])
    assert all(math.isfinite(value) and 0 <= value <= max(340, height) for value in numbers)


def test_every_case_is_a_line_and_thousands_are_thinned_to_the_extremes_and_even_steps():
    cases = [(f"case {place}", place, place + 1, place + 2) for place in range(5000)]
    assert len(titles(range_chart(cases[:100], "CT"))) == 100
    found = titles(range_chart(cases, "CT"))
    assert len(found) == 320
    assert found[0].startswith("case 0:")
    assert found[-1].startswith("case 4999:")


@pytest.mark.parametrize(
    "cases", [[("a", 0, 0, 0)], [("a", -3, 0, 2), ("b", 1, 1, 1)], [("a", 0, 1, 2), ("b", 0, 9, 1e6)] * 3]
)
def test_ranges_take_any_values(cases):
    numbers, _ = coordinates(range_chart(cases, "x"))
    assert all(math.isfinite(value) for value in numbers)


def test_numbers_are_short():
    assert [number(value) for value in (0, 0.0123, 7.0, 1234, 56_000, 2.5e6, 3e9, -250)] == [
        "0",
        "0.0123",
        "7",
        "1234",
        "56 k",
        "2.5 M",
        "3 G",
        "-250",
    ]
