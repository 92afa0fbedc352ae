"""The figures of the report, each with a caption that says how to read it and what it is in the paper."""

from __future__ import annotations

from collections.abc import Sequence

from casc_lab.compare.cost_figures import energy_figures
from casc_lab.compare.figure_groups import (
    Numbered,
    accuracy_axis,
    by_layer,
    grid,
    group,
    layer_axis,
    layers_of,
    methods_key,
    percent,
    series,
)
from casc_lab.compare.measure import Comparison, answers, by_output, measure
from casc_lab.html.axes import Axis, counting, linear, logarithmic, time
from casc_lab.html.charts import Series, lines, values_of
from casc_lab.html.heat_map import heat_map, shade_key

# More layers than this are shown as maps.
_FEW = 4


def figures(comparison: Comparison) -> str:
    """All of them, in groups."""
    every = list(enumerate(comparison["methods"]))
    four = [(number, method) for number, method in every if method["group"] == "Table 6"]
    T = comparison["T"]
    readouts = [_readout(name, list(enumerate(view["methods"])), view) for name, view in by_output(comparison)]
    made = [_mismatches(four, T), *readouts, _errors(every, T)]
    made += [_firing(four, T), _silence(four), _positions(four), energy_figures(every, comparison)]
    return "".join(made)


def _steps(T: int) -> list[int]:
    return list(range(1, T + 1))


def _shown(names: Sequence[str]) -> list[tuple[int, str]]:
    """All of a few layers; else the first, the second, the middle one and the last, named so."""
    if len(names) <= _FEW:
        return list(enumerate(names))
    chosen = ((0, "first"), (1, "second"), (len(names) // 2, "middle"), (len(names) - 1, "last"))
    return [(index, f"{names[index]} ({which} layer)") for index, which in chosen]


def _mismatches(four: Numbered, T: int) -> str:
    names = layers_of(four)
    charts = []
    for index, name in _shown(names):
        own = [
            Series(
                method["label"], [sign * value for value in percent(method["layers"][index][kind])], n, method["ours"]
            )
            for kind, sign in (("more", 1.0), ("fewer", -1.0))
            for n, method in four
        ]
        title = f"share of neurons with more and with fewer spikes than the ANN's level, over T: {name}"
        charts.append(
            (name, lines(title, own, _steps(T), time(T), ("T", "← fewer · % of neurons · more →"), unsigned=True))
        )
    maps, caption = [], ""
    if len(names) > _FEW:
        off = {n: [_sum(layer["more"], layer["fewer"]) for layer in method["layers"]] for n, method in four}
        most = max(value for rows in off.values() for row in rows for value in row)
        for n, method in four:
            title = f"share of neurons off their level, by layer and step: {method['label']}"
            maps.append((method["label"], heat_map(title, names, off[n], "off", most)))
        caption = " The maps show all layers, more and fewer together: what counts is where they turn blank."
        maps_key = shade_key("off", most, "off their level")
    return group(
        "Where the errors arise",
        "Share of neurons with at least one spike more (above zero) or fewer (below) than the ANN's level asks for, after "
        "T steps (Figure 4, a to c). At zero, a layer is exact." + caption,
        methods_key(four),
        grid(charts),
        maps_key + grid(maps) if maps else "",
    )


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _readout(name: str, every: Numbered, comparison: Comparison) -> str:
    T, what, kind = comparison["T"], answers(comparison), measure(comparison)
    error = series(every, lambda m: m["mse"])
    differ = series(every, lambda m: m["mismatches"])
    charts = [
        (
            "Mean squared error of the readout (Figure 4 d)",
            _over("mean squared error of the readout over T", error, T, "MSE", logarithmic(values_of(error))),
        ),
        (
            f"Samples whose {what} differ, of {comparison['data']['samples']:,}",
            _over(f"samples whose {what} differ over T", differ, T, "samples", logarithmic(values_of(differ))),
        ),
    ]
    if kind is not None and kind.key == "error":
        off = series(every, lambda m: m["error"])
        up = logarithmic([*values_of(off), comparison["ann_error"]])
        title, level = f"{kind.name} against the labels", (comparison["ann_error"], "ANN")
        charts.append((title[0].upper() + title[1:], _over(f"{title} over T", off, T, kind.unit, up, level)))
    if kind is not None and kind.key == "accuracy":
        right = series(every, lambda m: m["accuracy"])
        charts.append(
            (
                "Accuracy (Figure 4 e)",
                _over("accuracy over T", right, T, "%", accuracy_axis(comparison), (comparison["ann_accuracy"], "ANN")),
            )
        )
    return group(
        "How fast they vanish" + (f": output {name!r}" if name else ""),
        "The readout after T steps against the quantised ANN's logits, its classes against the ANN's, and how well it "
        "meets the labels. On logarithmic axes zero has a dotted line of its own at the bottom; an error of zero is "
        "equality to the last bit.",
        methods_key(every),
        grid(charts),
    )


def _over(
    title: str, own: Sequence[Series], T: int, unit: str, up: Axis, level: tuple[float, str] | None = None
) -> str:
    return lines(title, own, _steps(T), time(T), ("T", unit), up, level=level)


def _errors(every: Numbered, T: int) -> str:
    names = layers_of(every)
    own = by_layer(every, lambda method: percent([layer["relative_error"][-1] for layer in method["layers"]]))
    up, charts = logarithmic(values_of(own)), []
    for title, left_out in (("The paper's methods", "rival"), ("CASC and the rivals", "Table 6")):
        some = [
            one for one, (_, method) in zip(own, every, strict=True) if method["ours"] or method["group"] != left_out
        ]
        if len(some) > 1:
            charts.append(
                (
                    title,
                    lines(
                        f"Relative error of each layer at T={T}: {title}",
                        some,
                        range(len(names)),
                        layer_axis(names),
                        ("layer", "%"),
                        up,
                    ),
                )
            )
    return group(
        "Relative error layer by layer",
        f"How far spike rates are from the ANN's activations after {T} steps: the sum of |rate - activation| over that of "
        "activations, layer after layer as the network computes them (Figure 5). Zero, the dotted line at the bottom, is "
        "exact.",
        methods_key(every),
        grid(charts),
    )


def _firing(four: Numbered, T: int) -> str:
    names = layers_of(four)
    parts = []
    for sign, said, colour in (("positive", "+1", "plus"), ("negative", "-1", "minus")):
        if len(names) <= _FEW:
            charts = []
            for index, name in enumerate(names):
                some = [each for each in four if any(each[1]["layers"][index][sign])]
                if not some:
                    continue
                own = _in_layer(some, index, sign)
                title = f"share of neurons that emit {said} at each step: {name}"
                charts.append((f"Emit {said}: {name}", lines(title, own, _steps(T), time(T), ("step", "% of neurons"))))
            parts.append(grid(charts))
            continue
        rows = {n: [layer[sign] for layer in method["layers"]] for n, method in four}
        most = max(value for own in rows.values() for row in own for value in row)
        maps = [
            (
                f"{method['label']}: {said}",
                heat_map(f"{method['label']}: emit {said} by layer and step", names, rows[n], colour, most),
            )
            for n, method in four
            if any(map(any, rows[n]))
        ]
        if maps:
            parts += [shade_key(colour, most, f"emit {said}"), grid(maps)]
    return group(
        "Who fires, and when it ends",
        "Share of neurons that emit a spike at each step, +1 and -1 apart (Figure 6). With wake-sleep it falls to zero, "
        "layer after layer; under continuous input it never does. IF neurons have none that are negative.",
        methods_key(four) if len(names) <= _FEW else "",
        *parts,
    )


def _in_layer(methods: Numbered, index: int, kind: str) -> list[Series]:
    """A share of one layer's neurons over steps, in percent."""
    return series(methods, lambda method: percent(method["layers"][index][kind]))


def _silent(methods: Numbered, which: str) -> list[Series]:
    """The last spike of each layer."""
    return by_layer(methods, lambda method: [layer["silence"][which] for layer in method["layers"]])


def _at_positions(methods: Numbered, index: int, which: str) -> list[Series]:
    """What one layer has by token position; shares in percent."""
    drawn = percent if which == "mismatch" else list
    return series(methods, lambda method: drawn(method["layers"][index]["positions"][which]))


def _silence(four: Numbered) -> str:
    asleep = [(number, method) for number, method in four if method["silence"] is not None]
    if not asleep:
        return ""
    names = layers_of(asleep)
    charts = []
    for which, said in (("p50", "the median sample"), ("max", "the slowest sample")):
        own = _silent(asleep, which)
        title = f"Last spike of each layer, {said}"
        charts.append(
            (
                title,
                lines(
                    title,
                    own,
                    range(len(names)),
                    layer_axis(names),
                    ("layer", "step"),
                    linear(values_of(own), whole=True),
                ),
            )
        )
    return group(
        "Steps to silence",
        "The last step at which each layer spikes, in the order in which the network computes them, for the methods that "
        "sleep: a rising line is "
        "firing that ends layer after layer. The others never fall silent.",
        methods_key(asleep),
        grid(charts),
    )


def _positions(four: Numbered) -> str:
    charts = []
    for index, layer in enumerate(four[0][1]["layers"]):
        if layer["positions"] is None:
            continue
        for which, said, unit in (
            ("mismatch", "Off their level at the end", "% of neurons"),
            ("silent_at", "Mean last spike", "step"),
        ):
            # Under continuous input the last spike is at the end of the run.
            some = [each for each in four if which == "mismatch" or each[1]["silence"] is not None]
            own = _at_positions(some, index, which)
            last = len(layer["positions"][which])
            if not some or not last:
                continue
            title = f"{said}, by token: {layer['name']}"
            svg = lines(title, own, range(1, last + 1), counting(last), ("token position", unit))
            charts.append((title, svg))
    if not charts:
        return ""
    return group(
        "Token by token",
        "Each token position has neurons of its own, and reads the spikes of the one before: errors and firing by "
        "position, over the texts that are long enough.",
        methods_key(four),
        grid(charts),
    )
