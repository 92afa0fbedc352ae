"""The results as one picture: the main ratios above, how time grows below."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from report import MEGABYTE, MEMORY_NAMES, by_case, by_threads, count, is_peer
from speed import ANN, AS_TRAINED, SILENT

from casc_lab.pictures import COLOURS, MARKERS, doubling_axis, line_style, new_figure, png

Section = dict[str, Any]
Panel = Callable[[Axes], None]
DPI = 150


def picture(results: Section) -> bytes:
    """A PNG of what was measured; start-up is in the tables alone."""
    machine, sections = results["machine"], results["sections"]
    rows = [
        (f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}", _ratios(sections)),
        ("Convolutional network", _convolutions(sections)),
        (
            "Growth (random networks): wall time of snn(...), until silent, / time of the ANN of the same size",
            _growth(sections),
        ),
    ]
    heights = [height for height, row in zip((5.6, 4.4, 3.6), rows, strict=True) if row[1]] or [3.6]
    rows = [row for row in rows if row[1]] or [("", [_nothing])]
    figure = new_figure(16.0, sum(heights), DPI)
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights, hspace=0.04)[:, 0]
    for part, (title, panels) in zip(parts, rows, strict=True):
        part.suptitle(title, fontsize=11)
        for axes, panel in zip(part.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            panel(axes)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _ratios(sections: Section) -> list[Panel]:
    panels: list[Panel] = []
    if "recurrent" in sections:
        # Texts of full length alone: the others are in the tables.
        cases = [(case, rows) for case, rows in by_case(sections["recurrent"]["rows"]) if "every text" in case]
        panels.append(lambda axes: _recurrent(axes, cases))
    if "feedforward" in sections:
        cases_forward = by_case(sections["feedforward"]["rows"])
        panels.append(lambda axes: _feed_forward(axes, cases_forward))
    if "memory" in sections:
        panels.append(lambda axes: _memory(axes, sections["memory"]["rows"]))
    return panels


def _convolutions(sections: Section) -> list[Panel]:
    if "convolution" not in sections:
        return []
    section = sections["convolution"]
    return [partial(_convolution, section=section), partial(_errors, rows=section["errors"])]


def _growth(sections: Section) -> list[Panel]:
    if "growth" not in sections:
        return []
    axes_of = sections["growth"]["axes"]
    return [partial(_curve, axis=axis, points=points) for axis, points in axes_of.items()]


def _bars(axes: Axes, cases: list[tuple[str, list[Section]]], label: Callable[[Section], str]) -> None:
    """Horizontal bars of each entry, one for each case, with the first number of threads; a mark for the second."""
    timed = [
        (case, [(threads, {row["entry"]: row for row in mine if row["wall_s"]}) for threads, mine in by_threads(rows)])
        for case, rows in cases
    ]
    names = [name for name in timed[0][1][0][1] if name != ANN and all(name in by_count[0][1] for _, by_count in timed)]
    height = 0.8 / len(cases)
    for index, (case, by_count) in enumerate(timed):
        places = [place + (index - (len(cases) - 1) / 2) * height for place in range(len(names))]
        lengths = [[rows[name]["wall_ratio"] for name in names] for _, rows in by_count[:2]]
        axes.barh(places, lengths[0], 0.92 * height, color=COLOURS[index % 4], label=case)
        if len(lengths) > 1:
            last = case is cases[-1][0]
            name = f"the same, {count(by_count[1][0])}" if last else None
            axes.plot(lengths[1], places, "|", color="0.15", markersize=9, markeredgewidth=1.6, label=name)
        for place, name, ends in zip(places, names, zip(*lengths, strict=True), strict=True):
            text = label(by_count[0][1][name])
            axes.annotate(text, (max(ends), place), (6, 0), textcoords="offset points", va="center", fontsize=7)
    axes.axvline(1.0, color="0.45", linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * axes.dataLim.xmax)  # room for the figures beside the bars
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"wall time / time of the float32 ANN, {count(timed[0][1][0][0])}", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.13), ncols=2)


def _recurrent(axes: Axes, cases: list[tuple[str, list[Section]]]) -> None:
    short = [(case.partition(", every")[0], rows) for case, rows in cases]
    _bars(axes, short, lambda row: f"{row['wall_ratio']:.2f}")
    axes.set_title("recurrent classifier", fontsize=10)


def _feed_forward(axes: Axes, cases: list[tuple[str, list[Section]]]) -> None:
    simulated = [(case, [row for row in rows if row["steps"]]) for case, rows in cases]
    _bars(axes, simulated, lambda row: f"{row['wall_ratio']:.2f} ({row['wall_ratio'] / row['steps']:.2f} a step)")
    peers = any(is_peer(row["entry"]) and row["wall_s"] for _, rows in cases for row in rows)
    axes.set_title(f"feed-forward network{' and peers' if peers else ' (no peer is installed)'}", fontsize=10)


def _convolution(axes: Axes, section: Section) -> None:
    """Of the simulations of a fixed length, those of one length: the others are in the tables."""
    rows = [row for row in section["rows"] if row["steps"] and (row["steps"] == section["peer_steps"] or _silent(row))]
    _bars(axes, [(section["shape"].partition(";")[2].strip(), rows)], lambda row: f"{row['wall_ratio']:.1f}")


def _silent(row: Section) -> bool:
    return bool(row["entry"] == SILENT)


def _errors(axes: Axes, rows: list[Section]) -> None:
    """How far the logits are off over T; ours end at the rounding of the weights."""
    curves: dict[str, list[Section]] = {}
    for row in rows:
        if row["steps"] and row["against"] == AS_TRAINED:
            curves.setdefault(re.sub(r",? ?\(?T=\d+\)?", "", row["entry"]), []).append(row)
    for index, (name, points) in enumerate(curves.items()):
        steps, off = [point["steps"] for point in points], [max(point["logits_percent"], 1e-3) for point in points]
        axes.plot(steps, off, markersize=5, linewidth=1.7, label=name, **line_style(index))
    silent = next(row for row in rows if _silent(row))
    axes.axhline(
        max(silent["logits_percent"], 1e-3), color="0.45", linestyle=":", label=f"{SILENT}: what snapping moved"
    )
    steps = sorted({row["steps"] for row in rows if row["steps"]})
    doubling_axis(axes, steps, fontsize=8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("T", fontsize=9)
    axes.set_ylabel("logits off by (%), mean over mean", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _memory(axes: Axes, rows: list[Section]) -> None:
    for index, what in enumerate(rows[0]["bytes"]):
        places = [place + (index - (len(rows[0]["bytes"]) - 1) / 2) * 0.2 for place in range(len(rows))]
        taken = [row["bytes"][what] for row in rows]
        sizes = [math.nan if size is None else max(size, 0) / MEGABYTE for size in taken]  # no bar: too little memory
        name = MEMORY_NAMES.get(what, f"T={what}")
        bars = axes.bar(places, sizes, 0.19, color=("0.6", *COLOURS)[index % 5], label=name)
        texts = [f"{size:,.0f}" if not size < 10 else f"{size:.1f}" for size in sizes]
        axes.bar_label(bars, texts, rotation=90, fontsize=7, padding=3)
    names = [f"{row['network'].rpartition(', ')[0]}\n{row['batch']:,}" for row in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=7)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    sizes = [size / MEGABYTE for row in rows for size in row["bytes"].values() if size]
    axes.set_ylim(min(sizes, default=1.0) / 3, 4 * max(sizes, default=1.0))  # room for the figures above the bars
    axes.set_ylabel("MB")
    axes.set_xlabel(", ".join(dict.fromkeys(row["network"].rpartition(", ")[2] for row in rows)), fontsize=9)
    axes.set_title("peak memory of one run", fontsize=10)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4)


def _curve(axes: Axes, axis: str, points: list[Section]) -> None:
    curve = [point for point in points if isinstance(point["value"], int)]
    values = [point["value"] for point in curve]
    for index, first in enumerate(curve[0]["rows"]):
        colour, marker = COLOURS[(3, 0)[index % 2]], MARKERS[index % 4]
        ratios = [point["rows"][index]["wall_ratio"] for point in curve]
        name = count(first["threads"])
        axes.plot(values, ratios, color=colour, marker=marker, markersize=4.5, linewidth=1.7, label=name)
        for silent in points[len(curve) :]:
            axes.axhline(silent["rows"][index]["wall_ratio"], color=colour, linestyle=":", linewidth=1.2)
    doubling_axis(axes, values, fontsize=8)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    words = {"T": "T of snn.simulate (dotted: snn(...))", "q": "levels q", "hidden": "hidden units"}
    axes.set_xlabel(words.get(axis, axis), fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing to draw: see the tables", ha="center")
    axes.set_axis_off()
