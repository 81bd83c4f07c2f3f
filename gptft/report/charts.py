"""Figures for a page: a caption, a legend and a line or dot chart as inline SVG, built from strings.

The page's style sheet (assets/report.html) colours the CSS classes c0 to c3, so the same figure
suits a light screen, a dark screen and paper. The colours are Okabe and Ito's, which readers with
colour blindness can tell apart. <title> and <desc> describe a chart to screen readers, and each dot
shows its numbers as a tooltip.

Sources: Okabe & Ito 2008, "Color Universal Design"; Heckbert 1990, "Nice numbers for graph labels".
"""

import math
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 420, 264  # of a chart, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 58, 408, 32, 222  # edges of the plot inside it
MAX_POINTS = 500  # of a line; more would be finer than the pixels


class Series(NamedTuple):
    """A line through points (x, y), or (x, y, low, high) with an interval around y.

    style: "line", "broken", "faint", "dashed", or "dots" for a line with markers.
    colour: 0, 1 or 2; 3 is grey. A series without a name has no entry in the legend.
    """

    name: str
    points: list
    style: str = "line"
    colour: int = 0


def figure(title, note, series, x_label, y_label, x_range=None, y_range=None):
    """Draw series on common axes -> a <figure> element, a str.

    note: a remark beside the title. series: a list of Series, each with at least one point.
    x_range, y_range: (low, high); the default covers all points.
    """
    named = [s for s in series if s.name]
    caption = f"{escape(title)} <small>{escape(note)}</small>"
    if len(named) > 1:
        caption += "".join(map(_legend_entry, named))
    points = [point for s in series for point in s.points]
    x_range = x_range or _padded_range([point[0] for point in points])
    y_range = y_range or _padded_range([value for point in points for value in point[1:]])
    x = _scale(x_range, LEFT, RIGHT)
    y = _scale(y_range, BOTTOM, TOP)
    parts = [
        f"<title>{escape(title)}</title>",
        f"<desc>{escape('; '.join(map(_describe, named)))}</desc>",
        f'<text class="label" x="2" y="12">{escape(y_label)}</text>',
        f'<text class="label x" x="233" y="{BOTTOM + 37}">{escape(x_label)}</text>',
        f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>',
    ]
    for value in ticks(*y_range):
        parts += [
            f'<path class="grid" d="M{LEFT} {y(value)}H{RIGHT}"/>',
            f'<text class="y" x="{LEFT - 6}" y="{y(value) + 4:g}">{format_number(value)}</text>',
        ]
    for value in ticks(*x_range):
        parts += [
            f'<path class="axis" d="M{x(value)} {BOTTOM}v4"/>',
            f'<text class="x" x="{x(value)}" y="{BOTTOM + 18}">{format_number(value)}</text>',
        ]
    for s in series:
        parts += _draw(s, x, y)
    svg = f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{caption}</figcaption>\n{svg}</figure>"


def ticks(low, high, n=5):
    """About n round numbers from low to high: the multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    # The small tolerances keep rounding from losing a step or an end of the axis.
    for factor in (1, 2, 5, 10):
        step = factor * power
        if step >= rough * (1 - 1e-9):
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def format_number(value):
    """A tick in few characters: 25,000, 0.05, 2e-5."""
    return f"{value:,.10g}".replace("e-0", "e-")


def _padded_range(values):
    low, high = min(values), max(values)
    margin = (high - low) * 0.04 if high > low else abs(low) * 0.1 or 1.0
    return low - margin, high + margin


def _scale(span, start, stop):
    """A function from values within `span` to positions from `start` to `stop`."""
    low, high = span
    return lambda value: round(start + (value - low) / (high - low) * (stop - start), 1)


def _draw(s, x, y):
    """The elements of a series; the functions x and y turn its values into positions."""
    thinned = [*s.points[:: len(s.points) // MAX_POINTS + 1], s.points[-1]]
    line = " ".join(f"{x(point[0])},{y(point[1])}" for point in thinned)
    parts = [f'<polyline class="{s.style} c{s.colour}" points="{line}"/>']
    for across, up, *interval in s.points if s.style == "dots" else []:
        tooltip = f"{s.name} at {across:g}: {up:.4g}"
        if interval:
            low, high = interval
            whisker = f"M{x(across)} {y(low)}V{y(high)}"
            parts.append(f'<path class="whisker c{s.colour}" d="{whisker}"/>')
            tooltip += f" ({low:.4g} to {high:.4g})"
        place = f'cx="{x(across)}" cy="{y(up)}" r="3.2"'
        content = f"<title>{escape(tooltip)}</title>"
        parts.append(f'<circle class="dot c{s.colour}" {place}>{content}</circle>')
    return parts


def _legend_entry(s):
    return f' <span class="key {s.style} c{s.colour}">{escape(s.name)}</span>'


def _describe(s):
    first, last = s.points[0], s.points[-1]
    return f"{s.name} goes from {first[1]:.4g} at {first[0]:g} to {last[1]:.4g} at {last[0]:g}"
