"""Tables of the report, in HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Comparison = Mapping[str, Any]
Cell = Callable[[Mapping[str, Any], int], str]


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, strong: Sequence[int] = ()) -> str:
    """A table whose first column names its rows; rows of these numbers stand out. Cells are text.

    The caption is outside the part that scrolls, so that a phone shows all of it.

    >>> html_table(["method", "T=1"], [["a < b", "1"]], "how").count("&lt;")
    1
    """
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f"<tr{' class=ours' if index in strong else ''}>"
        f'<th scope="row">{html.escape(row[0])}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])}</tr>'
        for index, row in enumerate(rows)
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    said = html.escape(caption)
    return (
        f'<figure class="data"><figcaption>{said}</figcaption><div class="wide" tabindex="0" role="region" '
        f'aria-label="{said}"><table>{head}<tbody>{body}</tbody></table></div></figure>'
    )


@dataclass(frozen=True)
class Measure:
    """How well networks meet the labels.

    Attributes:
        key: of the figures of a method, and behind "ann_" and "reference_" of the networks that know no time.
        name, unit: as tables say it. caption: of a table over time.
        digits: how a figure is written.
    """

    key: str
    name: str
    unit: str
    caption: str
    digits: str

    def cell(self, method: Mapping[str, Any], step: int) -> str:
        """The figure of a method at a step, from 0."""
        return self.shown(method[self.key][step])

    def shown(self, value: float) -> str:
        """A figure as it is written."""
        return f"{value:{self.digits}}"


_MEASURES = (
    Measure("accuracy", "accuracy", "%", "Accuracy in percent after T steps, on the same trained network.", ".2f"),
    Measure(
        "error", "mean squared error", "MSE", "Mean squared error against the labels after T steps, on the same trained "
        "network.", ".4g",
    ),
)  # fmt: skip


def measure(comparison: Comparison) -> Measure | None:
    """Accuracy where labels are classes, the mean squared error where they are numbers; None without labels."""
    return next((one for one in _MEASURES if comparison[f"ann_{one.key}"] is not None), None)


def answers(comparison: Comparison) -> str:
    """What of a sample is compared with the quantised ANN's: its outputs where labels are numbers, else its predictions."""
    return "predictions" if comparison["ann_error"] is None else "outputs"


def chain(comparison: Comparison) -> dict[str, float]:
    """How well the network as trained meets the labels, calibrated if it was, and on the grid; nothing without labels."""
    kind = measure(comparison)
    if kind is None:
        return {}
    calibrated = comparison.get("calibrated")
    first = {} if calibrated is None else {"network as trained": calibrated[f"trained_{kind.key}"]}
    ann = "ANN as trained" if calibrated is None else "ANN, calibrated"
    return first | {ann: comparison[f"ann_{kind.key}"], "ANN on the grid": comparison[f"reference_{kind.key}"]}


def over_time(comparison: Comparison) -> str:
    """How well labels are met, and samples whose predictions differ, by method and step."""
    samples, kind, made = comparison["data"]["samples"], measure(comparison), ""
    if kind is not None:
        made = _by_step(comparison, kind.caption, kind.cell, constant_rows(comparison))
    differ = _by_step(
        comparison,
        f"Samples whose {answers(comparison)} differ from the quantised ANN's after T steps, of {samples:,}.",
        mismatch_cell,
    )
    return f'<div class="tables">{made}{differ}</div>'


def costs(comparison: Comparison) -> str:
    """Exactness, silence, spikes and energy of each method; then spikes and energy step by step."""
    ann, last = comparison["ann"]["energy_nj"], comparison["T"]
    header = ["method", "exact", "from T", "silent at, median", "at most", f"spikes, T={last}", "energy", "× ANN"]
    rows = []
    for method in comparison["methods"]:
        silence = method["silence"]
        rows.append(
            [
                method["label"],
                "yes" if method["exact"] else "no",
                "–" if method["exact_at"] is None else str(method["exact_at"]),
                *(("never", "never") if silence is None else (str(silence["p50"]), str(silence["max"]))),
                f"{method['spikes'][-1]:,.0f}",
                joules(method["energy_nj"][-1]),
                ratio(method["energy_nj"][-1], ann),
            ]
        )
    caption = (
        "Exact: every spike count and every logit is the quantised ANN's, bit for bit. From T: first step from which "
        f"on all logits are. Silent at: last step with a spike. Spikes and energy up to T={last}, for one sample on "
        f"average; the ANN takes {joules(ann)}."
    )
    spikes = _by_step(
        comparison,
        "Spikes of either sign up to step T, for one sample on average.",
        lambda method, step: f"{method['spikes'][step]:,.0f}",
    )
    energy = _by_step(
        comparison,
        f"Energy up to step T relative to the ANN's {joules(ann)}.",
        lambda method, step: ratio(method["energy_nj"][step], ann),
    )
    return html_table(header, rows, caption, ours(comparison)) + f'<div class="tables">{spikes}{energy}</div>'


def _by_step(comparison: Comparison, caption: str, cell: Cell, constant: Mapping[str, str] | None = None) -> str:
    header, *rows = rows_by_step(comparison, "label", "method", cell, constant)
    return html_table(header, rows, caption, ours(comparison))


def rows_by_step(
    comparison: Comparison, key: str, corner: str, cell: Cell, constant: Mapping[str, str] | None = None
) -> list[list[str]]:
    """Methods, each called what it has under `key`, by the steps that are shown; the first row is the header.

    Args:
        cell: of a method and a step, from 0.
        constant: rows that are the same at each step.
    """
    columns = comparison["columns"]
    rows = [[method[key], *(cell(method, step - 1) for step in columns)] for method in comparison["methods"]]
    rows += [[name, *[value] * len(columns)] for name, value in (constant or {}).items()]
    return [[corner, *(f"T={step}" for step in columns)], *rows]


def mismatch_cell(method: Mapping[str, Any], step: int) -> str:
    """Samples whose predictions differ."""
    return f"{method['mismatches'][step]:,}"


def constant_rows(comparison: Comparison) -> dict[str, str]:
    """How well networks that know no time meet the labels."""
    kind = measure(comparison)
    return {} if kind is None else {name: kind.shown(value) for name, value in chain(comparison).items()}


def operations(comparison: Comparison) -> str:
    """Operations of our method, layer by layer, beside the ANN's."""
    (number,) = ours(comparison)
    method = comparison["methods"][number]
    rows = [
        [
            f"{index}. {layer['name']}",
            f"{layer['neurons']:,.0f}",
            f"{layer['ann_macs']:,.0f}",
            f"{sum(layer['macs']):,.0f}",
            f"{sum(layer['acs']):,.0f}",
        ]
        for index, layer in enumerate(method["layers"], 1)
    ]
    sums = [sum(layer["ann_macs"] for layer in method["layers"])]
    sums += [sum(sum(layer[kind]) for layer in method["layers"]) for kind in ("macs", "acs")]
    whole = [comparison["ann"]["macs"], method["macs"][-1], method["acs"][-1]]
    # Layers are rounded one by one, so a readout without operations may come out a little below zero.
    rest = [max(0.0, all_of - part) for all_of, part in zip(whole, sums, strict=True)]
    rows.append(["the readout", "–", *(f"{value:,.0f}" for value in rest)])
    rows.append(["together", "–", *(f"{value:,.0f}" for value in whole)])
    return html_table(
        ["layer", "neurons", "MACs of the ANN", "MACs", "ACs"], rows, "Operations; layers are numbered as above."
    )


def equivalence(comparison: Comparison) -> str:
    """Counts of our method against the reference's levels, layer by layer."""
    rows = [
        [
            layer["name"],
            f"{layer['neurons']:,}",
            f"{layer['differing']:,}",
            str(layer["silent_p50"]),
            str(layer["silent_max"]),
        ]
        for layer in comparison["equivalence"]["layers"]
    ]
    header = ["layer", "neurons", "that differ", "silent at, median", "at most"]
    return html_table(header, rows, "Spike counts of every neuron, of all samples, against the quantised ANN's levels.")


def pairs(values: Mapping[str, Any], caption: str) -> str:
    """Names and values."""
    return html_table(["", ""], [[str(name), str(value)] for name, value in values.items()], caption)


def ours(comparison: Comparison) -> list[int]:
    """The row of our method."""
    return [index for index, method in enumerate(comparison["methods"]) if method["ours"]]


def ratio(value: float, unit: float) -> str:
    """How many times as much.

    >>> ratio(3.0, 2.0), ratio(1250.0, 1.0), ratio(1.0, 0.0)
    ('1.50', '1,250', '–')
    """
    if unit == 0.0:
        return "–"
    share = value / unit
    return f"{share:,.{0 if share >= 100 else 1 if share >= 10 else 2 if share >= 1 else 3}f}"


def joules(nano: float) -> str:
    """An energy in a readable unit.

    >>> joules(0.5), joules(1500.0), joules(2.5e6)
    ('500 pJ', '1.5 µJ', '2.5 mJ')
    """
    for factor, unit in ((1e-3, "pJ"), (1.0, "nJ"), (1e3, "µJ"), (1e6, "mJ"), (1e9, "J")):
        if abs(nano) < 999.5 * factor or unit == "J":
            return f"{nano / factor:.3g} {unit}"
    raise AssertionError
