"""Charts as inline SVG, from nothing but strings: axes with round numbers, lines, dots with intervals, a legend.

A chart is a string to be put into a page whose style sheet (in assets/report.html) gives the classes their colours, so
that the same chart works on white, on black and on paper. The colours are Okabe and Ito's, which colour-blind readers
can tell apart; lines differ in their form, too. <title> and <desc> say in words what a screen reader can't see, and each
dot carries its numbers as a title.

Left out: logarithmic axes, and everything that would need a script.
Source: Okabe & Ito 2008, "Color Universal Design"; Heckbert 1990, "Nice numbers for graph labels".
"""

import math
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 420, 264
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 32, 42  # margins around the plot
CHARACTER = 6.9  # width of a letter, about
MOST_POINTS = 500  # of a line; more would be finer than the pixels


class Series(NamedTuple):
    """A named row of points: (x, y), or (x, y, low, high) where there is an interval.

    style: "line", "faint", "dashed", or "dots" on a line. A series without a name is not in the legend.
    """

    name: str
    points: list
    style: str = "line"
    colour: int = 0


def ticks(low, high, n=5):
    """About n round numbers from low to high: all multiples there of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def number(value, digits=10):
    """`value` in few characters, at most `digits` digits: 25,000, 0.05, 2e-5."""
    return f"{value:,.{digits}g}".replace("e-0", "e-")


def chart(title, series, x_label, y_label="", x_range=None, y_range=None):
    """list[Series] -> str. The ranges are (low, high); by default what the points need."""
    points = [point for s in series for point in s.points]
    x_range = x_range or _range([p[0] for p in points])
    y_range = y_range or _range([v for p in points for v in p[1:]])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    x, y = _scale(x_range, LEFT, right), _scale(y_range, bottom, TOP)
    rows, columns = ticks(*y_range), ticks(*x_range)
    parts = [
        f'<path class="grid" d="{"".join(f"M{LEFT} {y(v)}H{right}" for v in rows)}"/>',
        f'<path class="axis" d="M{LEFT} {bottom}H{right}{"".join(f"M{x(v)} {bottom}v4" for v in columns)}"/>',
        *(_text(LEFT - 6, y(v) + 4, number(v), "end") for v in rows),
        _text(2, 12, y_label, "start", "label"),
        *(_text(x(v), bottom + 18, number(v), "middle") for v in columns),
        _text((LEFT + right) / 2, bottom + 37, x_label, "middle", "label"),
    ]
    for s in series:
        line = " ".join(
            f"{x(p[0])},{y(p[1])}"
            for p in [*s.points[:: len(s.points) // MOST_POINTS + 1], s.points[-1]]
        )
        parts.append(f'<polyline class="{s.style} c{s.colour}" points="{line}"/>')
        for p in s.points if s.style == "dots" else []:
            if interval := p[2:]:
                parts.append(
                    f'<path class="whisker c{s.colour}" d="M{x(p[0])} {y(p[2])}V{y(p[3])}"/>'
                )
            said = f"{s.name} at {number(p[0], 4)}: {number(p[1], 4)}" + (
                f" {_words(interval)}" if interval else ""
            )
            parts.append(_circle(x(p[0]), y(p[1]), s.colour, f"<title>{escape(said)}</title>"))
    return _svg(title, series, parts)


def _range(values):
    low, high = min(values), max(values)
    spread = (high - low) * 0.04 if high > low else abs(low) * 0.1 or 1.0
    return low - spread, high + spread


def _scale(span, start, stop):
    return lambda value: round(start + (value - span[0]) / (span[1] - span[0]) * (stop - start), 1)


def _text(x, y, text, anchor, kind="tick"):
    return (
        f'<text class="{kind}" x="{x:.5g}" y="{y:.5g}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _circle(x, y, colour, content=""):
    return f'<circle class="dot c{colour}" cx="{x:.5g}" cy="{y:.5g}" r="3.2">{content}</circle>'


def _svg(title, series, parts):
    """The parts with a legend and, for those who can't see them, words."""
    named = [s for s in series if s.name]
    x = WIDTH - RIGHT - sum(30 + CHARACTER * len(s.name) for s in named)
    for s in named if len(named) > 1 else []:
        kind = "line" if s.style == "dots" else s.style
        parts += [
            f'<path class="{kind} c{s.colour}" d="M{x + 4:.5g} 8h18"/>',
            _text(x + 26, 12, s.name, "start"),
        ]
        parts += [_circle(x + 13, 8, s.colour)] if s.style == "dots" else []
        x += 30 + CHARACTER * len(s.name)
    said = (
        f"{s.name}: {len(s.points)} points, from {_words(s.points[0])} to {_words(s.points[-1])}"
        for s in named
    )
    head = f"<title>{escape(title)}</title><desc>{escape('; '.join(said))}</desc>"
    return f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}">{head}{"".join(parts)}</svg>'


def _words(point):
    return "(" + ", ".join(number(v, 4) for v in point) + ")"
