"""Figures for a page: a caption with a legend, and a line or dot chart as inline SVG.

The page's style sheet (assets/report.html) colours the CSS classes c0 to c5, so the same figure
suits a light screen, a dark screen and paper. The colours are close to Okabe and Ito's, which
readers with colour blindness can tell apart. Each dot shows its numbers as a tooltip.

Sources: Okabe & Ito 2008, "Color Universal Design"; Heckbert 1990, "Nice numbers for graph labels".
"""

import math
from html import escape
from typing import NamedTuple

import numpy as np

LEFT, RIGHT, TOP, BOTTOM = 58, 408, 32, 222  # edges of the plot in an image of 420 by 264
MAX_POINTS = 100  # of a line; a longer one is drawn through the means of 100 blocks of points


class Series(NamedTuple):
    """A line through points (x, y), or (x, y, low, high) with an interval around y.

    style: "line", "faint" for one that the legend leaves out, or "dots" for a line with markers.
    colour: 0 to 5; any other number is grey.
    """

    name: str
    points: list
    style: str = "line"
    colour: int = 0


def figure(title, series, x_label, y_label, x_range=None, diagonal=False):
    """Draw series on common axes -> a <figure> element, a str.

    series: a list of Series, each with at least one point. x_range: (low, high); the default
    covers all points. diagonal: if both axes are probabilities, draw the line y = x and let y run
    from 0 to 1.
    """
    points = [point for s in series for point in s.points]
    low, high = x_range or _padded_range([point[0] for point in points])
    y_range = _padded_range([value for point in points for value in point[1:]])
    if diagonal:
        y_range = (0, 1)
    x = _scale((low, high), LEFT, RIGHT)
    y = _scale(y_range, BOTTOM, TOP)
    parts = [
        f"<title>{escape(title)}</title>",
        f'<text class="label" x="2" y="12">{escape(y_label)}</text>',
        f'<text class="label x" x="{(LEFT + RIGHT) / 2}" y="259">{escape(x_label)}</text>',
        f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>',
    ]
    for value in ticks(*y_range):
        parts += [
            f'<path class="grid" d="M{LEFT} {y(value)}H{RIGHT}"/>',
            f'<text class="y" x="{LEFT - 6}" y="{y(value) + 4:g}">{value:,.10g}</text>',
        ]
    for value in ticks(low, high):
        parts += [
            f'<path class="axis" d="M{x(value)} {BOTTOM}v4"/>',
            f'<text class="x" x="{x(value)}" y="{BOTTOM + 18}">{value:,.10g}</text>',
        ]
    if diagonal:
        parts.append(f'<path class="dashed" d="M{x(low)} {y(low)}L{x(high)} {y(high)}"/>')
    for s in series:
        parts += _draw(s, x, y)
    svg = f'<svg role="img" viewBox="0 0 420 264">{"".join(parts)}</svg>'
    legend = "".join(
        f' <span class="key {s.style} c{s.colour}">{escape(s.name)}</span>'
        for s in series
        if s.style != "faint"
    )
    return f"<figure><figcaption>{escape(title)}{legend}</figcaption>\n{svg}</figure>"


def ticks(low, high):
    """About five round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    step = 10.0 ** math.floor(math.log10(span / 5))
    for factor in (2, 2.5, 2):
        if span / step > 5 + 1e-9:
            step *= factor
    # The small tolerance keeps rounding from losing an end of the axis.
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _padded_range(values):
    low, high = min(values), max(values)
    margin = 0.04 * (high - low or abs(low) or 1.0)
    return low - margin, high + margin


def _scale(span, start, stop):
    """A function from values within `span` to positions from `start` to `stop`."""
    low, high = span
    return lambda value: round(start + (value - low) / (high - low) * (stop - start), 1)


def _draw(s, x, y):
    """The elements of a series; the functions x and y turn its values into positions."""
    blocks = np.array_split(np.array(s.points), min(len(s.points), MAX_POINTS))
    line = " ".join(f"{x(block[:, 0].mean())},{y(block[:, 1].mean())}" for block in blocks)
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
