"""Pictures as PNG: colours and markers, and the axis of time steps. The plotting library is loaded when one is drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS, MARKERS = ("#c44e52", "#dd8452", "#8172b3", "#1b7f5c"), ("o", "s", "^", "D")


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """An empty figure, its size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def line_style(number: int) -> dict[str, Any]:
    """Colour and marker of line `number` of a picture."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def doubling_axis(axes: Axes, values: Sequence[int], fontsize: float | None = None) -> None:
    """The horizontal axis for numbers that double, such as time steps; a tick at each."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=fontsize)
    axes.minorticks_off()
