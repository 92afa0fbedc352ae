"""A comparison as a few tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casc_core.compare.tables import chain
from casc_core.compare.verdict import moved
from casc_core.experiment.results import markdown


def summary(comparison: Mapping[str, Any]) -> str:
    """Accuracy over time, and exactness, spikes and energy of each method."""
    columns = comparison["columns"]
    header = [f"T={step}" for step in columns]
    tables = []
    if comparison["ann_accuracy"] is not None:
        rows = [["accuracy (%)", *header]]
        rows += [
            [method["name"], *(f"{method['accuracy'][step - 1]:.2f}" for step in columns)]
            for method in comparison["methods"]
        ]
        rows += [[name, *[f"{value:.2f}"] * len(columns)] for name, value in chain(comparison).items()]
        tables.append(markdown(rows))
    rows = [["predictions that differ", *header]]
    rows += [
        [method["name"], *(f"{method['mismatches'][step - 1]:,}" for step in columns)]
        for method in comparison["methods"]
    ]
    tables.append(markdown(rows))
    last = comparison["T"]
    rows = [["for each sample", "exact", "from T", "silent at", f"spikes, T={last}", f"energy, T={last} (x ANN)"]]
    for method in comparison["methods"]:
        silence = method["silence"]
        rows.append(
            [
                method["name"],
                "yes" if method["exact"] else "no",
                "-" if method["exact_at"] is None else str(method["exact_at"]),
                "never" if silence is None else f"{silence['p50']}, at most {silence['max']}",
                f"{method['spikes'][-1]:,.0f}",
                _ratio(method["energy_nj"][-1], comparison["ann"]["energy_nj"]),
            ]
        )
    tables.append(markdown(rows))
    tables.append(moved(comparison))
    said = "\n".join(f"- {sentence}" for sentence in comparison["findings"])
    return "\n\n".join([f"{comparison['title']}: {comparison['data']['source']}", *tables, said])


def _ratio(value: float, unit: float) -> str:
    return "-" if unit == 0.0 else f"{value / unit:.3g}"
