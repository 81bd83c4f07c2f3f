"""Charts: ticks and places worked by hand, and XML that a strict parser takes."""

import xml.etree.ElementTree as ET

import pytest

from gptft.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, chart, number, ticks


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 330, [0, 100, 200, 300]),
        (0.31, 0.72, [0.4, 0.5, 0.6, 0.7]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0, 2.8e-5, [0, 1e-5, 2e-5]),
        (24_000, 26_000, [24_000, 24_500, 25_000, 25_500, 26_000]),
    ],
)
def test_ticks_are_round_and_within_the_axis(low, high, expected):
    # 3 * 0.1 is 0.30000000000000004: a label must not say so, and an end of the axis must not be lost to rounding.
    assert ticks(low, high) == expected


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.3, 25_000, 1_500_000, 2e-5, -0.5)] == [
        "0",
        "0.3",
        "25,000",
        "1,500,000",
        "2e-5",
        "-0.5",
    ]


def circles(svg):
    return [
        tuple(float(circle.get(key)) for key in ("cx", "cy"))
        for circle in ET.fromstring(svg).iter("circle")
    ]


def test_points_stand_where_their_numbers_say():
    # A y axis upside down, or a scale that starts at the wrong margin, shows another result than the one measured.
    svg = chart("t", [Series("a", [(0, 0), (0.5, 0.25), (1, 1)], "dots")], "x", "y", (0, 1), (0, 1))
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    assert circles(svg) == [
        (left, bottom),
        ((left + right) / 2, bottom - (bottom - top) / 4),
        (right, top),
    ]


def test_intervals_are_drawn_from_low_to_high():
    svg = chart("t", [Series("a", [(0.5, 0.5, 0.25, 1)], "dots")], "x", "y", (0, 1), (0, 1))
    height = HEIGHT - BOTTOM - TOP
    middle = (LEFT + WIDTH - RIGHT) / 2
    assert f'd="M{middle} {TOP + 0.75 * height}V{float(TOP)}"' in svg
    titles = [node.text for node in ET.fromstring(svg).iter("title")]
    assert titles == ["t", "a at 0.5: 0.5 (0.25, 1)"]


def test_a_chart_of_one_point_or_equal_values_has_an_axis():
    # Their range is 0, by which a scale would divide.
    for points in ([(3, 2)], [(1, 0), (2, 0)]):
        assert "nan" not in chart("t", [Series("a", points, "dots")], "x", "y")


def test_long_lines_are_thinned_and_keep_their_ends():
    svg = chart(
        "t", [Series("a", [(i, i % 7) for i in range(25_001)])], "x", "y", (0, 25_000), (0, 6)
    )
    line = ET.fromstring(svg).find("polyline").get("points").split()
    assert (
        len(line) <= 502
        and line[0].startswith(f"{LEFT}")
        and line[-1].startswith(f"{WIDTH - RIGHT}")
    )


def test_names_are_escaped_and_told_to_screen_readers():
    svg = chart(
        "<script>&",
        [Series("<b>", [(0, 1), (2, 3)]), Series('"c"', [(0, 0), (1, 1)])],
        "<x>",
        "<y>",
    )
    root = ET.fromstring(svg)
    assert root.get("role") == "img" and root.find("title").text == "<script>&"
    assert (
        root.find("desc").text
        == '<b>: 2 points, from (0, 1) to (2, 3); "c": 2 points, from (0, 0) to (1, 1)'
    )
    assert {"<b>", '"c"', "<x>", "<y>"} <= {node.text for node in root.iter("text")}
    assert not set(node.tag for node in root.iter()) & {"script", "b", "x", "y"}
