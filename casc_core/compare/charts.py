"""Charts as inline SVG: lines over steps or layers, and heat maps of layers over steps.

Colours are custom properties of the page (`--s0`, `--ink`, ...), so a chart follows light, dark and paper. Lines differ in
colour, dash and marker, so they can be told apart without colour.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 14, 40
_DASHES = ("", "7 3", "2 3", "8 3 2 3", "4 2", "1 2", "10 3", "5 2 1 2")
_ROW = 11


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
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    log_x: bool = False,
    x_names: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    level: tuple[float, str] | None = None,
    markers: bool = False,
) -> str:
    """A line chart.

    Args:
        title: read aloud in the place of the picture.
        x: places along the axis. x_names: what stands there instead of numbers.
        log: logarithmic; zeros stand on a line of their own at the bottom. log_x: so is the other axis.
        limits: of the y axis; None: those of the values.
        level: a horizontal line and its name.
        markers: mark every value.

    >>> svg = lines("a < b", [Series("one", [1.0, 2.0], 0)], [1, 2], "T", "%")
    >>> svg.startswith("<svg") and "a &lt; b" in svg
    True
    """
    found = [v for s in series for v in s.values if v is not None and math.isfinite(v)]
    if level is not None:
        found.append(level[0])
    places = [p for s in series for p in (s.x or x)]
    scale, ticks = (_log_axis if log else _axis)(found, limits)
    across, x_ticks = _across(places or [0.0, 1.0], x_names, log_x)
    parts = [_frame(title)]
    for value, name in ticks:
        y = scale(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text("tick", _LEFT - 5, y + 4, "end", name))
    for place, name in x_ticks:
        parts.append(_text("tick", across(place), HEIGHT - _BOTTOM + 15, "middle", name))
    if level is not None:
        y = scale(level[0])
        parts.append(f'<path class="level" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text("tick", WIDTH - _RIGHT - 3, y - 4, "end", level[1]))
    for one in sorted(series, key=lambda each: each.strong):
        points = [
            (across(place), scale(value))
            for place, value in zip(one.x or x, one.values, strict=True)
            if value is not None and math.isfinite(value)
        ]
        parts.append(_line(points, one, markers or len(points) < 3))
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(_text("axis", (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, "middle", x_label))
    parts.append(_text("axis", 12, middle, "middle", y_label, turned=True))
    return "".join(parts) + "</svg>"


def legend(series: Sequence[Series]) -> str:
    """Names of lines, each with a piece of it."""
    items = []
    for one in series:
        piece = _line([(1, 6), (25, 6)], one, False) + _marker(13, 6, one)
        items.append(f'<li><svg width="26" height="12" aria-hidden="true">{piece}</svg> {html.escape(one.label)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def heat(title: str, names: Sequence[str], rows: Sequence[Sequence[float]], colour: str, most: float) -> str:
    """A heat map, a row for each name and a column for each step; `most` is the darkest.

    >>> heat("map", ["a"], [[0.0, 0.5]], "plus", 1.0).count("<rect")
    1
    """
    steps, left = max(len(row) for row in rows), 108
    row_height = max(5.0, min(22.0, 300 / len(rows)))
    height = int(row_height * len(rows)) + 40
    cell = (WIDTH - left - _RIGHT) / steps
    every = max(1, math.ceil(_ROW / row_height))
    parts = [_frame(title, height)]
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = 4 + index * row_height
        if index % every == 0:
            parts.append(_text("tick", left - 5, y + row_height / 2 + 4, "end", _short(name)))
        for step, value in enumerate(row):
            if value > 0:
                shade = max(0.06, min(1.0, value / most)) if most > 0 else 0.0
                parts.append(
                    f'<rect x="{left + step * cell:.1f}" y="{y:.1f}" width="{max(0.5, cell - 0.5):.1f}" '
                    f'height="{max(0.5, row_height - 0.5):.1f}" fill="var(--{colour})" fill-opacity="{shade:.2f}"/>'
                )
    bottom = 4 + row_height * len(rows)
    parts.append(f'<path class="level" d="M{left} 4V{bottom:.1f}H{WIDTH - _RIGHT}"/>')
    for step in _whole(steps):
        parts.append(_text("tick", left + (step - 0.5) * cell, bottom + 14, "middle", str(step)))
    parts.append(_text("axis", (left + WIDTH - _RIGHT) / 2, height - 3, "middle", "step"))
    return "".join(parts) + "</svg>"


def _short(name: str) -> str:
    return name if len(name) <= 17 else f"…{name[-16:]}"


def _frame(title: str, height: int = HEIGHT) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title)}">'


def _text(kind: str, x: float, y: float, anchor: str, words: str, turned: bool = False) -> str:
    at = f'transform="translate({x:.0f} {y:.0f}) rotate(-90)"' if turned else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{kind}" {at} text-anchor="{anchor}">{html.escape(words)}</text>'


def _line(points: Sequence[tuple[float, float]], one: Series, markers: bool) -> str:
    if not points:
        return ""
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    dash = _DASHES[one.colour % len(_DASHES)] if not one.strong else ""
    thick = 3 if one.strong else 1.6
    drawn = f'<path d="{path}" fill="none" stroke="var(--s{one.colour})" stroke-width="{thick}"'
    drawn += f' stroke-dasharray="{dash}"/>' if dash else "/>"
    return drawn + ("".join(_marker(px, py, one) for px, py in points) if markers else "")


def _marker(x: float, y: float, one: Series) -> str:
    """A disc, square, triangle or diamond."""
    size = 4 if one.strong else 3
    shape = one.colour % 4
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="var(--s{one.colour})"/>'
    outline = {
        1: f"M{x - size:.1f} {y - size:.1f}h{2 * size}v{2 * size}h-{2 * size}z",
        2: f"M{x:.1f} {y - size:.1f}l{size} {2 * size}h-{2 * size}z",
        3: f"M{x:.1f} {y - size - 1:.1f}l{size} {size + 1}l-{size} {size + 1}l-{size} -{size + 1}z",
    }[shape]
    return f'<path d="{outline}" fill="var(--s{one.colour})"/>'


Scale = Callable[[float], float]


def _axis(values: Sequence[float], limits: tuple[float, float] | None) -> tuple[Scale, list[tuple[float, str]]]:
    low, high = limits or (min([0.0, *values]), max([0.0, *values]) or 1.0)
    step = _round_step((high - low) / 4)
    first = math.ceil(low / step - 1e-9)
    ticks = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    if limits is None and ticks[-1] < high:
        high = ticks[-1] + step
        ticks.append(high)
    span = HEIGHT - _BOTTOM - _TOP

    def scale(value: float) -> float:
        return _TOP + span * (1 - (min(max(value, low), high) - low) / (high - low))

    return scale, [(tick, _number(tick)) for tick in ticks]


def _log_axis(values: Sequence[float], limits: tuple[float, float] | None) -> tuple[Scale, list[tuple[float, str]]]:
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)) + 1e-9)
    high = max(high, low + 1)
    zeros = any(value <= 0 for value in values)
    floor, top = HEIGHT - _BOTTOM, _TOP
    bottom = floor - (20 if zeros else 0)

    def scale(value: float) -> float:
        if value <= 0:
            return floor
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    every = max(1, math.ceil((high - low) / 5))
    ticks = [
        (10.0**power, _number(10.0**power) if -2 <= power <= 3 else f"1e{power}")
        for power in range(low, high + 1, every)
    ]
    return scale, ([(0.0, "0")] if zeros else []) + ticks


def _across(places: Sequence[float], names: Sequence[str] | None, log: bool) -> tuple[Scale, list[tuple[float, str]]]:
    low, high = min(places), max(places)
    span = WIDTH - _RIGHT - _LEFT - 12
    if log:
        low, high = math.log10(max(low, 1e-12)), math.log10(max(high, 1e-12))
        room = high - low or 1.0
        powers = range(math.ceil(low), math.floor(high) + 1)
        ticks = [(10.0**power, _number(10.0**power)) for power in powers]
        return lambda value: _LEFT + 6 + span * (math.log10(max(value, 1e-12)) - low) / room, ticks
    room = high - low or 1.0
    if names is not None:
        every = max(1, math.ceil(len(names) / 12))
        ticks = [(float(index), names[index]) for index in range(0, len(names), every)]
    else:
        ticks = [(float(step), str(step)) for step in _whole(int(high)) if step >= low]
    return lambda value: _LEFT + 6 + span * (value - low) / room, ticks


def _whole(last: int) -> list[int]:
    """Some of the whole numbers from 1 to `last`, both among them."""
    step = max(1, int(_round_step(last / 6)))
    inner = [number for number in range(step, last, step) if number > 1 and last - number >= step / 2]
    return sorted({1, *inner, last})


def _round_step(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(wanted, 1e-12)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted - 1e-12)


def _number(value: float) -> str:
    return f"{value:,.6g}"
