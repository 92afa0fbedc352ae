"""What all groups of figures share: their frame, a line for each method, names of layers."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from casc_lab.compare.measure import Comparison
from casc_lab.html.axes import Axis, linear, places
from casc_lab.html.charts import Series, legend

Method = dict[str, Any]
# Methods with their numbers among all: a method has the same colour everywhere.
Numbered = Sequence[tuple[int, Method]]
Charts = Sequence[tuple[str, str]]


def group(title: str, caption: str, *parts: str) -> str:
    """A title, how to read what follows, and that."""
    return f"<section><h2>{html.escape(title)}</h2><p>{html.escape(caption)}</p>{''.join(parts)}</section>"


def grid(charts: Charts) -> str:
    """Charts side by side, each with a name of its own.

    >>> grid([("one", "<svg></svg>")])
    '<div class="charts two"><figure><figcaption>one</figcaption><svg></svg></figure></div>'
    """
    drawn = "".join(f"<figure><figcaption>{html.escape(name)}</figcaption>{svg}</figure>" for name, svg in charts)
    return f'<div class="charts{" two" if len(charts) in (1, 2, 4) else ""}">{drawn}</div>'


def methods_key(methods: Numbered) -> str:
    """The legend of methods."""
    return legend(series(methods, lambda method: []))


def series(methods: Numbered, values: Callable[[Method], Sequence[float | None]]) -> list[Series]:
    """A line for each method."""
    return [Series(method["label"], values(method), number, method["ours"]) for number, method in methods]


def by_layer(methods: Numbered, values: Callable[[Method], Sequence[float]]) -> list[Series]:
    """A line for each method, over layers; where those are few, lines stand apart."""
    made = []
    for index, (number, method) in enumerate(methods):
        own = values(method)
        apart = (index + 0.5) / len(methods) - 0.5
        x = [place + (0.5 * apart if len(own) <= 4 else 0.0) for place in range(len(own))]
        made.append(Series(method["label"], own, number, method["ours"], x))
    return made


def layers_of(methods: Numbered) -> list[str]:
    """Names of layers, in the order in which the network computes them."""
    return [layer["name"] for layer in methods[0][1]["layers"]]


def layer_axis(names: Sequence[str]) -> Axis:
    """Names where there is room for them, else numbers."""
    room = len(names) * max(map(len, names)) <= 40
    return places(list(names) if room else [str(number + 1) for number in range(len(names))])


def percent(values: Sequence[float]) -> list[float]:
    """Shares as percent."""
    return [100.0 * value for value in values]


def accuracy_axis(comparison: Comparison) -> Axis:
    """With a little room around all values."""
    values = [value for method in comparison["methods"] for value in method["accuracy"]] + [comparison["ann_accuracy"]]
    low, high = min(values), max(values)
    margin = max(0.5, 0.08 * (high - low))
    return linear(values, (max(0.0, low - margin), min(100.0 + margin, high + margin)))
