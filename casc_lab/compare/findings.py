"""What the figures of the four methods say of the paper's claims, in sentences made from the figures themselves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor

from casc_core.evidence.analysis import Analysis
from casc_core.evidence.energy import EnergyTable
from casc_core.rivals.methods import OURS

_NAMES = {
    "baseline": "Without either",
    "baseline+WSC": "With wake-sleep alone",
    "baseline+CIF": "With CIF alone",
    OURS: "With CIF and wake-sleep together",
}


def findings(analyses: Mapping[str, Analysis], T: int, table: EnergyTable) -> list[str]:
    """Sentences on where mismatches vanish, where firing stops, and what it costs.

    Args:
        analyses: by name of the four methods; those that are missing are passed over.
        T: of the comparison; those that sleep are judged once silent.
    """
    sentences = [_mismatch(name, analysis) for name, analysis in analyses.items()]
    sentences += _first_layer(analyses)
    ours = analyses.get(OURS)
    if ours is not None:
        sentences += _order_of_silence(ours)
        sentences += _vanishing(ours)
    if ours is not None and "baseline+WSC" in analyses:
        sentences.append(_span("baseline+WSC", analyses["baseline+WSC"]))
    if ours is not None:
        sentences += _cost(ours, analyses.get("baseline"), T, table)
    return sentences


def _off(analysis: Analysis, layer: str) -> float:
    """Percent of a layer's neurons that end off their level."""
    own = analysis.layers[layer]
    return 100.0 * float(own.more[-1] + own.fewer[-1])


def _mismatch(name: str, analysis: Analysis) -> str:
    layers = list(analysis.layers)
    shares = [_off(analysis, layer) for layer in layers]
    who = _NAMES[name]
    end = f"after {analysis.T} steps" if name in ("baseline", "baseline+CIF") else "once silent"
    if not any(shares):
        return f"{who}, no neuron of any layer is off the ANN's level {end}."
    worst = max(range(len(shares)), key=shares.__getitem__)
    return (
        f"{who}, {shares[0]:.3g}% of the neurons of the first layer ({layers[0]}), {shares[-1]:.3g}% of the last "
        f"({layers[-1]}), and at most {shares[worst]:.3g}% ({layers[worst]}) are off their level {end}."
    )


def _first_layer(analyses: Mapping[str, Analysis]) -> list[str]:
    """The paper: real-valued input cannot make too few spikes in the first layer, and wake-sleep alone mends it."""
    wsc = analyses.get("baseline+WSC")
    if wsc is None:
        return []
    first = next(iter(wsc.layers))
    if wsc.layers[first].positions is not None:
        return [
            f"The paper's first layer reads real values alone, so that wake-sleep mends it without CIF; here the first "
            f"layer ({first}) is recurrent, its tokens read spikes, and {_off(wsc, first):.3g}% of its neurons are off "
            "with wake-sleep alone."
        ]
    if _off(wsc, first) == 0.0:
        return [f"As in the paper, wake-sleep alone mends the first layer ({first}), which reads real values."]
    return [f"Unlike in the paper, wake-sleep alone leaves {_off(wsc, first):.3g}% of the first layer ({first}) off."]


def _order_of_silence(ours: Analysis) -> list[str]:
    ends = {name: int(layer.silent_at.max()) for name, layer in ours.layers.items()}
    if len(ends) < 2:
        return []
    steps = list(ends.values())
    later = [(a, b) for a, b in itertools.pairwise(ends) if ends[b] < ends[a]]
    said = f"Firing ends at step {steps[0]} in the first layer and at step {steps[-1]} in the last"
    if not later:
        return [f"{said}: from shallow to deep, no layer before the one in front of it."]
    pairs = "; ".join(f"{b} at {ends[b]} before {a} at {ends[a]}" for a, b in later[:3])
    more = f" and {len(later) - 3} more" if len(later) > 3 else ""
    return [f"{said}, but not in strict order: {pairs}{more} (layers that lie side by side have no order)."]


def _vanishing(ours: Analysis) -> list[str]:
    """When the last mismatch of each layer has gone."""
    gone = {name: _last(layer.more + layer.fewer) for name, layer in ours.layers.items()}
    steps = list(gone.values())
    if len(steps) < 2:
        return [f"The layer is right from step {steps[0] + 1} on."]
    ordered = all(a <= b for a, b in itertools.pairwise(steps))
    how = "layer by layer" if ordered else "on the whole from shallow to deep"
    first, last = steps[0] + 1, steps[-1] + 1
    return [f"Mismatches vanish {how}: the first layer is right from step {first} on, the last from step {last} on."]


def _last(series: Tensor) -> int:
    """The last step, from 1, at which a series is not zero; 0 if it never is."""
    steps = series.nonzero()
    return int(steps[-1]) + 1 if len(steps) else 0


def _span(name: str, analysis: Analysis) -> str:
    ends = [int(layer.silent_at.max()) for layer in analysis.layers.values()]
    return (
        f"{_NAMES[name]} the paper sees all layers cease at nearly the same time; here they do between steps {min(ends)} "
        f"and {max(ends)}."
    )


def _cost(ours: Analysis, baseline: Analysis | None, T: int, table: EnergyTable) -> Sequence[str]:
    ann = ours.ann_energy(table)
    if ann == 0.0:
        return []
    spent = float(ours.energy(table)[-1])
    said = f"Once silent, CASC has spent {spent / ann:.3g} times the ANN's energy"
    if baseline is None:
        return [f"{said}."]
    return [f"{said}; the baseline spends {float(baseline.energy(table)[-1]) / ann:.3g} times by step {baseline.T}."]
