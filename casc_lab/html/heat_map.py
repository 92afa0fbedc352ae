"""Heat maps of layers over steps, as inline SVG, and the key to their shades."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from casc_lab.html.axes import counting
from casc_lab.html.charts import WIDTH, frame, text

_SHADES = 8
_LEFT, _RIGHT, _TOP = 124, 14, 4
# Height of a row's name.
_NAME = 13.0
_LONGEST = 15


def heat_map(title: str, names: Sequence[str], rows: Sequence[Sequence[float]], colour: str, most: float) -> str:
    """A heat map, a row for each name and a column for each step; `most` is darkest; only exact zeros are blank.

    >>> heat_map("map", ["a"], [[0.0, 0.5, 0.5]], "plus", 1.0).count("z")  # both cells are one rectangle
    1
    """
    steps = len(rows[0])
    row_height = max(6.0, min(24.0, 300 / len(rows)))
    height, cell = int(row_height * len(rows)) + 46, (WIDTH - _LEFT - _RIGHT) / steps
    parts, paths = [frame(title, height)], [""] * (_SHADES + 1)
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = _TOP + index * row_height
        if index % math.ceil(_NAME / row_height) == 0:
            parts.append(text("tick", _LEFT - 6, y + row_height / 2 + 5, "end", _short(name)))
        shades = [_shade(value, most) for value in row]
        step = 0
        while step < steps:
            end = step
            while end < steps and shades[end] == shades[step]:
                end += 1
            if shades[step]:
                across = (end - step) * cell
                paths[shades[step]] += (
                    f"M{_LEFT + step * cell:.1f} {y:.1f}h{across:.1f}v{row_height - 0.6:.1f}h-{across:.1f}z"
                )
            step = end
    parts += [
        f'<path d="{path}" fill="var(--{colour})" fill-opacity="{_opacity(shade):.2f}"/>'
        for shade, path in enumerate(paths)
        if path
    ]
    bottom = _TOP + row_height * len(rows)
    parts.append(f'<path class="level" d="M{_LEFT} {_TOP}V{bottom:.1f}H{WIDTH - _RIGHT}"/>')
    for step_number, name in counting(steps).marks:
        parts.append(text("tick", _LEFT + (step_number - 0.5) * cell, bottom + 17, "middle", name))
    parts.append(text("axis", (_LEFT + WIDTH - _RIGHT) / 2, height - 6, "middle", "step"))
    return "".join(parts) + "</svg>"


def shade_key(colour: str, most: float, words: str) -> str:
    """What shades stand for, in percent.

    >>> "up to 25%" in shade_key("plus", 0.25, "emit +1")
    True
    """
    swatches = "".join(
        f'<rect x="{18 * shade + 2}" width="18" height="14" fill="var(--{colour})" fill-opacity="{_opacity(shade):.2f}"/>'
        for shade in range(1, _SHADES + 1)
    )
    half = most * ((_SHADES // 2) / _SHADES) ** 2
    return (
        f'<p class="key"><svg width="{18 * _SHADES + 21}" height="14" aria-hidden="true">'
        f'<rect class="grid" x=".5" y=".5" width="19" height="13"/>{swatches}</svg> '
        f"{html.escape(words)}: blank is exactly 0, the middle shade up to {100 * half:.2g}%, "
        f"the strongest up to {100 * most:.3g}%</p>"
    )


def _shade(value: float, most: float) -> int:
    """0 for zero, else 1 to the strongest, by the square root: small shares still show."""
    return (
        0 if value <= 0.0 or most <= 0.0 else min(_SHADES, max(1, math.ceil(_SHADES * math.sqrt(value / most) - 1e-9)))
    )


def _opacity(shade: int) -> float:
    return 0.08 + 0.92 * shade / _SHADES


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
