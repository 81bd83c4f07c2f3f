"""Charts: ticks and positions worked out by hand, in XML that a strict parser reads."""

import xml.etree.ElementTree as ET

import pytest

from gptft.report.charts import BOTTOM, LEFT, MAX_POINTS, RIGHT, TOP, Series, figure, ticks


def parse(*args, **kwargs):
    return ET.fromstring(figure("<t>&", *args, **kwargs))


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.31, 0.72, [0.4, 0.5, 0.6, 0.7]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0, 2.8e-5, [0, 1e-5, 2e-5]),
        (24_000, 26_000, [24_000, 24_500, 25_000, 25_500, 26_000]),
    ],
)
def test_ticks_are_round_and_within_the_axis(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_points_and_intervals_are_at_their_values():
    # An axis upside down, or a scale from the wrong margin, would show other results.
    dots = Series("a", [(0, 0, 0, 0), (0.5, 0.25, 0.25, 1), (1, 1, 1, 1)], "dots")
    root = parse([dots], "x", "y", (0, 1), diagonal=True)
    centres = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("circle")]
    middle = (LEFT + RIGHT) / 2
    quarter = BOTTOM - (BOTTOM - TOP) / 4
    assert centres == [(LEFT, BOTTOM), (middle, quarter), (RIGHT, TOP)]
    whiskers = root.findall(".//path[@class='whisker c0']")
    assert whiskers[1].get("d") == f"M{middle} {quarter}V{float(TOP)}"
    titles = [title.text for title in root.iter("title")]
    assert titles[2] == "a at 0.5: 0.25 (0.25 to 1)"


def test_a_chart_of_one_point_or_of_equal_values_has_an_axis():
    # Their range is 0, by which a scale would divide.
    for points in ([(3, 2)], [(1, 0), (2, 0)]):
        root = parse([Series("a", points, "dots")], "x", "y")
        assert "nan" not in root.find(".//circle").get("cy")


def test_a_long_line_is_drawn_through_means():
    points = [(i, i % 2) for i in range(20_000)]
    root = parse([Series("a", points)], "x", "y", (0, 20_000))
    line = root.find(".//polyline").get("points").split()
    assert len(line) == MAX_POINTS
    assert {pair.split(",")[1] for pair in line} == {str((TOP + BOTTOM) / 2)}


def test_names_are_escaped_and_faint_series_are_not_in_the_legend():
    points = [(0, 1), (30_000, 3)]
    root = parse([Series("<b>", points), Series("c", points, "faint")], "<x>", "<y>")
    assert root.find(".//title").text == root.find("figcaption").text.strip() == "<t>&"
    assert {"<x>", "<y>", "20,000", "1.5"} <= {text.text for text in root.iter("text")}
    assert [entry.text for entry in root.iter("span")] == ["<b>"]
