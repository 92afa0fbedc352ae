"""A comparison as a few tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casc_lab.compare.tables import levels, measure, mismatch_cell, rows_by_step, times
from casc_lab.compare.verdict import moved
from casc_lab.evaluation.results import markdown


def summary(comparison: Mapping[str, Any]) -> str:
    """Accuracy (or the error) over time, and exactness, spikes and energy of each method."""
    tables = []
    kind = measure(comparison)
    if kind is not None:
        rows = rows_by_step(comparison, "name", f"{kind.name} ({kind.unit})", kind.cell, levels(comparison))
        tables.append(markdown(rows))
    tables.append(markdown(rows_by_step(comparison, "name", "predictions that differ", mismatch_cell)))
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
                times(method["energy_nj"][-1], comparison["ann"]["energy_nj"]),
            ]
        )
    tables.append(markdown(rows))
    tables.append(moved(comparison))
    said = "\n".join(f"- {sentence}" for sentence in comparison["findings"])
    return "\n\n".join([f"{comparison['title']}: {comparison['data']['source']}", *tables, said])
