"""Tables of the report, in HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

Comparison = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, strong: Sequence[int] = ()) -> str:
    """A table whose first column names its rows; rows of these numbers stand out. Cells are text.

    >>> table(["method", "T=1"], [["a < b", "1"]], "how").count("&lt;")
    1
    """
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f"<tr{' class=ours' if index in strong else ''}>"
        f'<th scope="row">{html.escape(row[0])}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])}</tr>'
        for index, row in enumerate(rows)
    )
    return (
        f'<div class="wide" tabindex="0"><table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def over_time(comparison: Comparison) -> str:
    """Accuracy and predictions that differ, by method and step."""
    columns, methods = comparison["columns"], comparison["methods"]
    header = [f"T={step}" for step in columns]
    strong, made = ours(comparison), ""
    if comparison["ann_accuracy"] is not None:
        rows = [[m["label"], *(f"{m['accuracy'][step - 1]:.2f}" for step in columns)] for m in methods]
        rows.append(["ANN as trained", *[f"{comparison['ann_accuracy']:.2f}"] * len(columns)])
        made = table(["accuracy (%)", *header], rows, "Accuracy after T steps, on the same trained network.", strong)
    rows = [[m["label"], *(f"{m['mismatches'][step - 1]:,}" for step in columns)] for m in methods]
    samples = comparison["data"]["samples"]
    caption = f"Predictions that differ from the quantised ANN's, of {samples:,}."
    return made + table(["predictions that differ", *header], rows, caption, strong)


def costs(comparison: Comparison) -> str:
    """Exactness, silence, spikes and energy of each method."""
    columns, ann = comparison["columns"], comparison["ann"]["energy_nj"]
    shown = columns[-3:]
    header = ["method", "exact", "from T", "silent at step (median, largest)"]
    header += [f"spikes, T={step}" for step in shown]
    header += [f"energy, T={step}" for step in shown]
    rows = []
    for method in comparison["methods"]:
        silence = method["silence"]
        rows.append(
            [
                method["label"],
                "yes" if method["exact"] else "no",
                "–" if method["exact_at"] is None else str(method["exact_at"]),
                "never" if silence is None else f"{silence['p50']}, {silence['max']}",
                *(f"{method['spikes'][step - 1]:,.0f}" for step in shown),
                *(times(method["energy_nj"][step - 1], ann) for step in shown),
            ]
        )
    caption = f"For one sample on average. Energy is relative to the ANN's, {joules(ann)}."
    return table(header, rows, caption, ours(comparison))


def operations(comparison: Comparison) -> str:
    """Operations of our method, layer by layer, beside the ANN's."""
    (number,) = ours(comparison)
    method = comparison["methods"][number]
    rows = [
        [
            layer["name"],
            f"{layer['neurons']:,.0f}",
            f"{layer['ann_macs']:,.0f}",
            f"{sum(layer['macs']):,.0f}",
            f"{sum(layer['acs']):,.0f}",
        ]
        for layer in method["layers"]
    ]
    sums = [sum(layer["ann_macs"] for layer in method["layers"])]
    sums += [sum(sum(layer[kind]) for layer in method["layers"]) for kind in ("macs", "acs")]
    whole = [comparison["ann"]["macs"], method["macs"][-1], method["acs"][-1]]
    rows.append(["the readout", "", *(f"{all_of - part:,.0f}" for all_of, part in zip(whole, sums, strict=True))])
    rows.append(["together", "", *(f"{value:,.0f}" for value in whole)])
    return table(
        ["layer", "neurons", "MACs of the ANN", "MACs", "ACs"],
        rows,
        f"{method['label']}: operations up to T={comparison['T']}, for one sample on average. MACs are real-valued inputs "
        "and biases at wake steps; ACs are one for each spike and synapse.",
    )


def equivalence(comparison: Comparison) -> str:
    """Counts of our method against the reference's levels, layer by layer."""
    rows = [
        [
            layer["name"],
            f"{layer['neurons']:,}",
            f"{layer['differing']:,}",
            f"{layer['silent_p50']}, {layer['silent_max']}",
        ]
        for layer in comparison["equivalence"]["layers"]
    ]
    header = ["layer", "neurons", "that differ", "silent at step (median, largest)"]
    return table(header, rows, "Spike counts of every neuron, of all samples, against the quantised ANN's levels.")


def pairs(values: Mapping[str, Any], caption: str) -> str:
    """Names and values."""
    return table(["", ""], [[str(name), str(value)] for name, value in values.items()], caption)


def ours(comparison: Comparison) -> list[int]:
    """The row of our method."""
    return [index for index, method in enumerate(comparison["methods"]) if method["ours"]]


def times(value: float, unit: float) -> str:
    """How many times as much.

    >>> times(3.0, 2.0), times(1.0, 0.0)
    ('1.5 x', '–')
    """
    return "–" if unit == 0.0 else f"{value / unit:.3g} x"


def joules(nano: float) -> str:
    """An energy in a readable unit.

    >>> joules(0.5), joules(1500.0), joules(2.5e6)
    ('500 pJ', '1.5 µJ', '2.5 mJ')
    """
    for factor, unit in ((1e-3, "pJ"), (1.0, "nJ"), (1e3, "µJ"), (1e6, "mJ")):
        if abs(nano) < 1e3 * factor or unit == "mJ":
            return f"{nano / factor:.3g} {unit}"
    raise AssertionError
