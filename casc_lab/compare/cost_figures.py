"""What methods cost: figures of energy and of operations layer by layer."""

from __future__ import annotations

from casc_lab.compare import tables
from casc_lab.compare.figure_groups import Numbered, accuracy_axis, grid, group, layer_axis, methods_key, series
from casc_lab.compare.measure import Comparison, answers, by_output, measure, of_output
from casc_lab.compare.units import joules
from casc_lab.html.axes import Axis, logarithmic, time
from casc_lab.html.charts import Series, legend, lines, values_of


def energy_figures(every: Numbered, comparison: Comparison) -> str:
    """Energy over time, and how well labels are met for energy; nothing where the ANN's is unknown."""
    ann, T = comparison["ann"]["energy_nj"], comparison["T"]
    if ann <= 0.0:
        return ""
    spent = series(every, lambda method: [value / ann for value in method["energy_nj"]])
    up, level = logarithmic([*values_of(spent), 1.0]), (1.0, "ANN")
    svg = lines("energy over T", spent, range(1, T + 1), time(T), ("T", "× ANN"), up, level=level)
    charts = [("Energy up to step T", svg), *(_for_energy(name, view, ann) for name, view in by_output(comparison))]
    energy_table = comparison["energy_table"]
    return group(
        "What it costs",
        f"Energy of one sample on average, relative to the ANN's {joules(ann)}, at {energy_table['mac_pj']:g} pJ for a "
        f"multiply-accumulate and {energy_table['ac_pj']:g} pJ for an accumulate ({energy_table['name']}; "
        f"{energy_table['source']}). Memory is not in it. A line that turns level has fallen silent; on the right, further "
        "left is cheaper.",
        methods_key(every),
        grid(charts),
    )


def _for_energy(name: str, comparison: Comparison, ann: float) -> tuple[str, str]:
    """How well one output meets its labels, or the reference, for the energy spent."""
    every = list(enumerate(comparison["methods"]))
    kind, words, key, unit = measure(comparison), f"samples whose {answers(comparison)} differ", "mismatches", "samples"
    up_axis: Axis | None = None
    if kind is not None:
        words, key, unit = kind.name, kind.key, kind.unit
        up_axis = accuracy_axis(comparison) if key == "accuracy" else None
    along = [Series(m["label"], m[key], n, m["ours"], [value / ann for value in m["energy_nj"]]) for n, m in every]
    used = logarithmic([value / ann for _, m in every for value in m["energy_nj"]])
    title = f"{words[0].upper()}{words[1:]}{of_output(name)} for the energy spent"
    mark = None if kind is None else (comparison[f"ann_{key}"], "ANN")
    return title, lines(title, along, [1.0], used, ("energy (× ANN)", unit), up_axis, level=mark)


def operation_figures(comparison: Comparison) -> str:
    """Operations of our method layer by layer beside the ANN's: a figure, if there are layers to compare, and a table."""
    (number,) = tables.ours(comparison)
    method = comparison["methods"][number]
    layers = method["layers"]
    parts = []
    if len(layers) > 1:
        own = [
            Series("ACs", [sum(layer["acs"]) for layer in layers], number, True),
            Series("MACs", [sum(layer["macs"]) for layer in layers], 1),
            Series("MACs of the ANN", [layer["ann_macs"] for layer in layers], 0),
        ]
        title = f"Operations of {method['label']}, by layer"
        axis = layer_axis([layer["name"] for layer in layers])
        svg = lines(title, own, range(len(layers)), axis, ("layer", "operations"), logarithmic(values_of(own)))
        parts = [legend(own), grid([(title, svg)])]
    return group(
        "Operations layer by layer",
        f"{method['label']} up to T={comparison['T']}, for one sample on average. MACs (multiply-accumulates) are "
        "real-valued inputs and biases at wake steps; ACs (accumulates) are one for each spike and synapse.",
        *parts,
        tables.operations(comparison),
    )
