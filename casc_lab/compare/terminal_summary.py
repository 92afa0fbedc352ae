"""A comparison as a few tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casc_core.reporting.tables import markdown_table
from casc_lab.compare.measure import answers, by_output, constant_rows, measure, of_output
from casc_lab.compare.tables import mismatch_cell, rows_by_step, rows_left_out
from casc_lab.compare.units import ratio
from casc_lab.compare.verdict import differences_by_step


def terminal_summary(comparison: Mapping[str, Any]) -> str:
    """Accuracy (or the error) over time, and exactness, spikes and energy of each method."""
    tables = []
    for name, view in by_output(comparison):
        kind, which = measure(view), of_output(name)
        if kind is not None:
            corner = f"{kind.name}{which} ({kind.unit})"
            tables.append(markdown_table(rows_by_step(view, "name", corner, kind.cell, constant_rows(view))))
        differing = f"samples whose {answers(view)}{which} differ"
        tables.append(markdown_table(rows_by_step(view, "name", differing, mismatch_cell)))
    last = comparison["T"]
    rows = [["for each sample", "exact", "from T", "silent at", f"spikes, T={last}", f"energy, T={last} (x ANN)"]]
    for method in comparison["methods"]:
        silence = method["silence"]
        rows.append(
            [
                method["name"],
                "yes" if method["exact"] else "no",
                "–" if method["exact_at"] is None else str(method["exact_at"]),
                "never" if silence is None else f"{silence['p50']}, at most {silence['max']}",
                f"{method['spikes'][-1]:,.0f}",
                ratio(method["energy_nj"][-1], comparison["ann"]["energy_nj"]),
            ]
        )
    tables.append(markdown_table(rows))
    if comparison.get("left_out"):
        tables.append(markdown_table(rows_left_out(comparison, "name")))
    tables.append(differences_by_step(comparison))
    said = "\n".join(f"- {sentence}" for sentence in comparison["findings"])
    return "\n\n".join([f"{comparison['title']}: {comparison['data']['source']}", *tables, said])
