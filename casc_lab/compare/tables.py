"""Tables of the report, in HTML, and the rows that they share with those for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from casc_lab.compare.measure import Comparison, answers, by_output, constant_rows, measure, of_output
from casc_lab.compare.units import joules, ratio
from casc_lab.html.table import html_table

Cell = Callable[[Mapping[str, Any], int], str]


def over_time(comparison: Comparison) -> str:
    """How well labels are met, and samples whose predictions differ, by method and step, for each output."""
    return "".join(f'<div class="tables">{_over_time(name, view)}</div>' for name, view in by_output(comparison))


def _over_time(name: str, comparison: Comparison) -> str:
    samples, kind, made, which = comparison["data"]["samples"], measure(comparison), "", of_output(name)
    if kind is not None:
        about = f"Output {name!r}: {kind.caption[0].lower()}{kind.caption[1:]}" if name else kind.caption
        made = _by_step(comparison, about, kind.cell, constant_rows(comparison))
    differ = _by_step(
        comparison,
        f"Samples whose {answers(comparison)}{which} differ from the quantised ANN's after T steps, of {samples:,}.",
        mismatch_cell,
    )
    return f"{made}{differ}"


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


def left_out(comparison: Comparison) -> str:
    """Methods under which the network cannot be run, and why; nothing where there is none."""
    header, *rows = rows_left_out(comparison, "label")
    return html_table(header, rows, "Methods under which this network cannot be run.") if rows else ""


def rows_left_out(comparison: Comparison, key: str) -> list[list[str]]:
    """Why the network cannot be run under some methods, called what they have under `key`; the first row is the header."""
    named: dict[str, list[str]] = {}
    for method in comparison.get("left_out", ()):
        named.setdefault(method["why"], []).append(method[key])
    return [["left out", "why"], *([", ".join(names), why] for why, names in named.items())]


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


def ours(comparison: Comparison) -> list[int]:
    """The row of our method."""
    return [index for index, method in enumerate(comparison["methods"]) if method["ours"]]
