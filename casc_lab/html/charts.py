"""Line charts as inline SVG.

Colours are custom properties of the page (`--s0`, `--ink`, ...), so a chart follows light, dark and paper. Lines differ in
colour, dash and marker, so they can be told apart without colour. Markers of different lines stand at different places
where there is room: where lines coincide, each still shows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from casc_lab.html.axes import Axis, linear, number

WIDTH, HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 16, 44
_DASHES = ("", "7 3", "2 3", "8 3 2 3", "4 2", "1 3", "10 3", "5 2 1 2")
# Of radius 1 around 0: disc, square, triangle, diamond, triangle upside down, star.
_MARKERS = (
    "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "M-.9-.9h1.8v1.8h-1.8z",
    "M0-1.1l1.1 2h-2.2z",
    "M0-1.25l1.25 1.25l-1.25 1.25l-1.25-1.25z",
    "M0 1.1l1.1-2h-2.2z",
    "M0-1.4l.35 1.05h1.05l-1.05.35v1.05l-.35-.7l-.35.7v-1.05l-1.05-.35h1.05z",
)
# Markers along a line.
_ALONG = 5


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        label: its name in the legend.
        values: its values, None where there is none.
        colour: number of its colour, dash and marker.
        strong: drawn thicker, on top.
        x: where, if not at the chart's own places.
    """

    label: str
    values: Sequence[float | None]
    colour: int
    strong: bool = False
    x: Sequence[float] | None = None


def lines(
    title: str,
    series: Sequence[Series],
    x: Sequence[float],
    across: Axis,
    labels: tuple[str, str],
    up: Axis | None = None,
    *,
    level: tuple[float, str] | None = None,
    unsigned: bool = False,
) -> str:
    """A line chart.

    Args:
        title: read aloud in the place of the picture.
        x: places along the axis `across`.
        labels: of both axes.
        up: the vertical axis; None: a linear one for the values.
        level: a horizontal line and its name.
        unsigned: the axis shows values below zero without their sign, and zero as a line.

    >>> from casc_lab.html.axes import time
    >>> svg = lines("a < b", [Series("one", [1.0, 2.0], 0)], [1, 2], time(2), ("T", "%"))
    >>> svg.startswith("<svg") and "a &lt; b" in svg
    True
    """
    up = up or linear(values_of(series))
    wide, high = WIDTH - _LEFT - _RIGHT - 12, HEIGHT - _TOP - _BOTTOM

    def at(place: float, value: float) -> tuple[float, float]:
        return _LEFT + 6 + wide * across.place(place), _TOP + high * (1 - up.place(value))

    parts = [frame(title)]
    for value, name in up.marks:
        y = at(x[0], value)[1]
        zero = ' stroke-dasharray="2 3"' if up.zero and value == 0.0 else ""
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"{zero}/>')
        parts.append(text("tick", _LEFT - 6, y + 5, "end", number(abs(value)) if unsigned else name))
    for place, name in across.marks:
        parts.append(text("tick", at(place, 0.0)[0], HEIGHT - _BOTTOM + 17, "middle", name))
    if level is not None:
        y = at(x[0], level[0])[1]
        parts.append(f'<path class="level" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(text("tick", WIDTH - _RIGHT, y - 4 if y > _TOP + 14 else y + 15, "end", level[1]))
    if unsigned:
        parts.append(f'<path class="level" d="M{_LEFT} {at(x[0], 0.0)[1]:.1f}H{WIDTH - _RIGHT}"/>')
    order = sorted(range(len(series)), key=lambda index: series[index].strong)
    for index in order:
        one = series[index]
        points = [
            at(place, value)
            for place, value in zip(one.x or x, one.values, strict=True)
            if value is not None and math.isfinite(value)
        ]
        parts.append(_line(points, one, (one.colour + 0.5) / (1 + max(each.colour for each in series))))
    parts.append(text("axis", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, "middle", labels[0]))
    parts.append(text("axis", 13, _TOP + high / 2, "middle", labels[1], turned=True))
    return "".join(parts) + "</svg>"


def values_of(series: Sequence[Series]) -> list[float]:
    """All values there are."""
    return [value for one in series for value in one.values if value is not None and math.isfinite(value)]


def legend(series: Sequence[Series]) -> str:
    """Names of lines, each with a piece of it."""
    items = []
    for one in series:
        piece = _line([(1, 7), (33, 7)], one, None) + _marker(17, 7, one)
        strong = ' class="ours"' if one.strong else ""
        items.append(
            f'<li{strong}><svg width="34" height="14" aria-hidden="true">{piece}</svg> {html.escape(one.label)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def frame(title: str, height: int = HEIGHT) -> str:
    """The opening tag of a picture."""
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title)}">'


def text(kind: str, x: float, y: float, anchor: str, words: str, turned: bool = False) -> str:
    """Words in a picture."""
    at = f'transform="translate({x:.0f} {y:.0f}) rotate(-90)"' if turned else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{kind}" {at} text-anchor="{anchor}">{html.escape(words)}</text>'


def _line(points: Sequence[tuple[float, float]], one: Series, turn: float | None) -> str:
    """A line and some markers; `turn`, from 0 to 1, shifts them along the line; None: no markers."""
    if not points:
        return ""
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    dash = "" if one.strong else _DASHES[one.colour % len(_DASHES)]
    thick = 3.5 if one.strong else 1.8
    drawn = f'<path d="{path}" fill="none" stroke="var(--s{one.colour})" stroke-width="{thick}" stroke-linejoin="round"'
    drawn += f' stroke-dasharray="{dash}"/>' if dash else "/>"
    if turn is None:
        return drawn
    first, last = points[0][0], points[-1][0]
    wanted = [first + (last - first) * (index + turn) / _ALONG for index in range(_ALONG)]
    marked = {min(range(len(points)), key=lambda i: abs(points[i][0] - place)) for place in wanted}
    return drawn + "".join(_marker(*points[index], one) for index in sorted(marked))


def _marker(x: float, y: float, one: Series) -> str:
    """Filled for the first methods, hollow for the next."""
    size = 4.6 if one.strong else 3.6
    hollow = one.colour // len(_MARKERS) % 2 == 1
    fill = "var(--paper)" if hollow else f"var(--s{one.colour})"
    return (
        f'<path transform="translate({x:.1f} {y:.1f}) scale({size:g})" d="{_MARKERS[one.colour % len(_MARKERS)]}" '
        f'fill="{fill}" stroke="var(--s{one.colour})" stroke-width=".3"/>'
    )
