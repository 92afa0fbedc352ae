"""The figures of the report, each with a caption that says how to read it and what it is in the paper."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

from casc_core.compare.charts import Series, heat, legend, lines
from casc_core.compare.tables import Comparison, joules

Method = dict[str, Any]
Layer = dict[str, Any]


def figures(comparison: Comparison) -> str:
    """All of them, in groups."""
    methods = list(comparison["methods"])
    four = [(number, method) for number, method in enumerate(methods) if method["group"] == "Table 6"]
    every = list(enumerate(methods))
    steps = list(range(1, comparison["T"] + 1))
    made = [_mismatches(four, steps), _readout(every, comparison, steps), _errors(every, comparison["T"])]
    made += [_firing(four, steps), _silence(four), _positions(four), _energy(every, comparison, steps)]
    return "".join(made)


def _group(title: str, caption: str, charts: Sequence[tuple[str, str]], key: Sequence[Series] = ()) -> str:
    """Charts side by side under one title, each with a name of its own, and a legend for all."""
    drawn = "".join(f"<figure><figcaption>{html.escape(name)}</figcaption>{svg}</figure>" for name, svg in charts)
    return (
        f"<section><h2>{html.escape(title)}</h2><p>{html.escape(caption)}</p>"
        f'{legend(key) if key else ""}<div class="charts">{drawn}</div></section>'
    )


def _series(methods: Sequence[tuple[int, Method]], values: Callable[[Method], Sequence[float | None]]) -> list[Series]:
    return [Series(method["label"], values(method), number, method["ours"]) for number, method in methods]


def _percent(values: Sequence[float]) -> list[float]:
    return [100.0 * value for value in values]


def _shown(count: int) -> list[int]:
    """The first, the second and the last of so many layers."""
    return sorted({0, min(1, count - 1), count - 1})


def _mismatches(four: Sequence[tuple[int, Method]], steps: Sequence[int]) -> str:
    layers = [layer["name"] for layer in four[0][1]["layers"]]
    charts = []
    for kind in ("more", "fewer"):
        for index in _shown(len(layers)):
            series = _series(four, lambda method, i=index, k=kind: _percent(method["layers"][i][k]))  # type: ignore[misc]
            title = f"{kind} spikes than the ANN's level, {layers[index]}"
            charts.append((title, lines(title, series, steps, "T", "% of neurons")))
    if len(layers) > 3:
        for _, method in four:
            rows = [_sum(layer["more"], layer["fewer"]) for layer in method["layers"]]
            title = f"off their level, all layers: {method['label']}"
            charts.append((title, heat(title, layers, rows, "off", max(max(row) for row in rows))))
    return _group(
        "Where the errors arise",
        "Share of neurons with at least one spike more, or fewer, than the ANN's level asks for after T steps (the paper's "
        "Figure 4, a to c). A line at zero means that the layer is exact. In maps, a row is a layer, and the darkest cell "
        "that map's largest share.",
        charts,
        _series(four, lambda method: []),
    )


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _readout(every: Sequence[tuple[int, Method]], comparison: Comparison, steps: Sequence[int]) -> str:
    error = lines(
        "mean squared error of the readout over T", _series(every, lambda m: m["mse"]), steps, "T", "MSE", log=True
    )
    charts = [("Mean squared error of the readout (Figure 4 d)", error)]
    if comparison["ann_accuracy"] is not None:
        right = lines(
            "accuracy over T", _series(every, lambda m: m["accuracy"]), steps, "T", "%",
            limits=_room([value for _, m in every for value in m["accuracy"]] + [comparison["ann_accuracy"]]),
            level=(comparison["ann_accuracy"], "ANN"),
        )  # fmt: skip
        charts.append(("Accuracy (Figure 4 e)", right))
    return _group(
        "How fast they vanish",
        "The logits after T steps against the quantised ANN's; zero has a line of its own at the bottom of the logarithmic "
        "axis, and stands for equality to the last bit. Accuracy is that of the same readout.",
        charts,
        _series(every, lambda method: []),
    )


def _room(values: Sequence[float]) -> tuple[float, float]:
    """Limits with a little room around values in percent."""
    low, high = min(values), max(values)
    margin = max(0.5, 0.08 * (high - low))
    return max(0.0, low - margin), min(100.0 + margin, high + margin)


def _errors(every: Sequence[tuple[int, Method]], T: int) -> str:
    names = [layer["name"] for layer in every[0][1]["layers"]]
    series = _series(every, lambda method: _percent([layer["relative_error"][-1] for layer in method["layers"]]))
    title = f"relative error of each layer at T={T}"
    chart = lines(title, series, range(len(names)), "layer", "%", x_names=_numbered(names), markers=True)
    return _group(
        "Relative error layer by layer",
        f"Sum of |rate - activation| over sum of activations, per layer, from shallow to deep, after {T} steps (Figure 5)."
        + _key(names),
        [(title, chart)],
        _series(every, lambda method: []),
    )


def _numbered(names: Sequence[str]) -> list[str]:
    """Names where there is room for them, else numbers."""
    return list(names) if _fit(names) else [str(number + 1) for number in range(len(names))]


def _fit(names: Sequence[str]) -> bool:
    """Whether names have room along an axis."""
    return len(names) <= 4 and max(map(len, names)) <= 8


def _key(names: Sequence[str]) -> str:
    if _fit(names):
        return ""
    return " Layers: " + ", ".join(f"{number + 1} {name}" for number, name in enumerate(names)) + "."


def _firing(four: Sequence[tuple[int, Method]], steps: Sequence[int]) -> str:
    names = [layer["name"] for layer in four[0][1]["layers"]]
    charts = []
    few = len(names) <= 3
    for sign in ("positive", "negative"):
        said = "+1" if sign == "positive" else "-1"
        if few:
            for index, name in enumerate(names):
                series = _series(four, lambda method, i=index, k=sign: _percent(method["layers"][i][k]))  # type: ignore[misc]
                title = f"emit {said}, {name}"
                charts.append((title, lines(title, series, steps, "T", "% of neurons")))
            continue
        for _, method in four:
            rows = [layer[sign] for layer in method["layers"]]
            largest = max(max(row) for row in rows)
            if largest > 0.0:
                title = f"emit {said}: {method['label']} (darkest: {100 * largest:.2g}%)"
                charts.append((title, heat(title, names, rows, "plus" if sign == "positive" else "minus", largest)))
    return _group(
        "Who fires, and when it ends",
        "Share of neurons that emit a spike at each step, +1 and -1 apart (Figure 6). With wake-sleep it falls to zero; "
        "under continuous input it never does. Neurons without negative spikes have no map of them.",
        charts,
        _series(four, lambda method: []) if few else (),
    )


def _silence(four: Sequence[tuple[int, Method]]) -> str:
    asleep = [(number, method) for number, method in four if method["silence"] is not None]
    if not asleep:
        return ""
    names = [layer["name"] for layer in asleep[0][1]["layers"]]
    charts = []
    for key, said in (("p50", "the median sample"), ("max", "the slowest sample")):
        series = _series(asleep, lambda method, k=key: [layer["silence"][k] for layer in method["layers"]])  # type: ignore[misc]
        title = f"last spike of each layer, {said}"
        charts.append(
            (title, lines(title, series, range(len(names)), "layer", "step", x_names=_numbered(names), markers=True))
        )
    return _group(
        "Steps to silence",
        "The last step at which each layer spikes, from shallow to deep, for the methods that sleep." + _key(names),
        charts,
        _series(asleep, lambda method: []),
    )


def _positions(four: Sequence[tuple[int, Method]]) -> str:
    charts = []
    for index, layer in enumerate(four[0][1]["layers"]):
        if layer["positions"] is None:
            continue
        for key, said, unit in (
            ("mismatch", "off their level at the end", "% of neurons"),
            ("silent_at", "mean last spike", "step"),
        ):
            # Under continuous input the last spike is at the end of the run.
            some = [each for each in four if key == "mismatch" or each[1]["silence"] is not None]
            factor = 100.0 if key == "mismatch" else 1.0
            series = _series(
                some,
                lambda method, i=index, k=key, f=factor: [f * v for v in method["layers"][i]["positions"][k]],  # type: ignore[misc]
            )
            places = range(1, len(layer["positions"][key]) + 1)
            title = f"{said}, by token: {layer['name']}"
            charts.append((title, lines(title, series, places, "token position", unit)))
    if not charts:
        return ""
    return _group(
        "Token by token",
        "Each token position has neurons of its own, and reads the spikes of the one before: errors and firing by "
        "position, over the texts that are long enough.",
        charts,
        _series(four, lambda method: []),
    )


def _energy(every: Sequence[tuple[int, Method]], comparison: Comparison, steps: Sequence[int]) -> str:
    ann, ours = comparison["ann"]["energy_nj"], next(method for _, method in every if method["ours"])
    if ann <= 0.0:
        return ""
    spent = _series(every, lambda method: [value / ann for value in method["energy_nj"]])
    charts = [("Energy up to step T", lines("energy over T", spent, steps, "T", "x ANN", log=True, level=(1.0, "ANN")))]
    if comparison["ann_accuracy"] is not None:
        along = [
            Series(m["label"], m["accuracy"], number, m["ours"], [value / ann for value in m["energy_nj"]])
            for number, m in every
        ]
        title = "Accuracy for the energy spent"
        limits = _room([value for _, m in every for value in m["accuracy"]] + [comparison["ann_accuracy"]])
        level = (comparison["ann_accuracy"], "ANN")
        charts.append(
            (title, lines(title, along, steps, "energy (x ANN)", "%", log_x=True, limits=limits, level=level))
        )
    names = [layer["name"] for layer in ours["layers"]]
    if len(names) > 1:
        acs = [Series("accumulates", [sum(layer["acs"]) for layer in ours["layers"]], 0, True)]
        acs.append(Series("multiply-accumulates", [sum(layer["macs"]) for layer in ours["layers"]], 1))
        acs.append(Series("MACs of the ANN", [layer["ann_macs"] for layer in ours["layers"]], 2))
        title = f"operations of {ours['label']}, by layer"
        svg = lines(
            title, acs, range(len(names)), "layer", "operations", log=True, x_names=_numbered(names), markers=True
        )
        charts.append((f"{title} (disc: ACs, square: MACs, triangle: the ANN's MACs)", svg))
    table = comparison["energy_table"]
    return _group(
        "What it costs",
        f"Energy of one sample on average, relative to the ANN's {joules(ann)}, at {table['mac_pj']:g} pJ for a "
        f"multiply-accumulate and {table['ac_pj']:g} pJ for an accumulate ({table['name']}; {table['source']}). Memory is "
        "not in it.",
        charts,
        _series(every, lambda method: []),
    )
