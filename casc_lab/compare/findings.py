"""What the figures of the four methods say of the paper's claims, in sentences made from the figures themselves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor

from casc_core.evidence.analysis import Analysis
from casc_core.evidence.energy import EnergyTable
from casc_core.rivals.methods import OURS
from casc_lab.compare.depths import by_depth

_NAMES = {
    "baseline": "Without either",
    "baseline+WSC": "With wake-sleep alone",
    "baseline+CIF": "With CIF alone",
    OURS: "With CIF and wake-sleep together",
}


def findings(analyses: Mapping[str, Analysis], depths: Mapping[str, int], table: EnergyTable) -> list[str]:
    """Sentences on where mismatches vanish, where firing stops, and what it costs.

    Args:
        analyses: by name of the four methods; those that are missing are passed over. Those that sleep are judged once
            silent.
        depths: of the layers (`layer_depths`): those that lie side by side have no order.
    """
    run = next(iter(analyses.values())).layers  # another way of calling the network may have others
    layers = by_depth({name: depth for name, depth in depths.items() if name in run})
    sentences = [_mismatch(name, analysis, layers) for name, analysis in analyses.items()]
    sentences += _first_layer(analyses)
    ours = analyses.get(OURS)
    if ours is not None:
        sentences += _order_of_silence(ours, layers)
        sentences += _vanishing(ours, layers)
    if ours is not None and "baseline+WSC" in analyses:
        sentences.append(_span("baseline+WSC", analyses["baseline+WSC"]))
    if ours is not None:
        sentences += _cost(ours, analyses.get("baseline"), table)
    return sentences


def _off(analysis: Analysis, layer: str) -> float:
    """Percent of a layer's neurons that end off their level."""
    own = analysis.layers[layer]
    return 100.0 * float(own.more[-1] + own.fewer[-1])


def _mismatch(name: str, analysis: Analysis, layers: Sequence[Sequence[str]]) -> str:
    shares = {layer: _off(analysis, layer) for layer in analysis.layers}
    who = _NAMES[name]
    end = f"after {analysis.T} steps" if name in ("baseline", "baseline+CIF") else "once silent"
    if not any(shares.values()):
        return f"{who}, no neuron of any layer is off the ANN's level {end}."
    worst = max(shares, key=shares.__getitem__)
    if len(layers) == 1 and len(shares) > 1:
        each = _enumerated([f"{share:.3g}% in {layer}" for layer, share in shares.items()])
        return f"{who}, so many neurons are off their level {end}: {each}, which lie side by side."
    (first, *_), (*_, last) = layers[0], layers[-1]
    return (
        f"{who}, {shares[first]:.3g}% of the neurons of the first layer ({first}), {shares[last]:.3g}% of the last "
        f"({last}), and at most {shares[worst]:.3g}% ({worst}) are off their level {end}."
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


def _order_of_silence(ours: Analysis, layers: Sequence[Sequence[str]]) -> list[str]:
    """When firing ends, from shallow to deep; of layers that lie side by side, in the one that fires longest."""
    if len(ours.layers) < 2:
        return []
    ends = [max((int(ours.layers[name].silent_at.max()), name) for name in side_by_side) for side_by_side in layers]
    if len(ends) == 1:
        each = _enumerated([f"at step {int(layer.silent_at.max())} in {name}" for name, layer in ours.layers.items()])
        return [f"Firing ends {each}, which lie side by side."]
    later = [(before, after) for before, after in itertools.pairwise(ends) if after[0] < before[0]]
    said = f"Firing ends at step {ends[0][0]} in the first layer and at step {ends[-1][0]} in the last"
    if not later:
        return [f"{said}: from shallow to deep, no layer before the one in front of it."]
    pairs = "; ".join(f"{b} at {end} before {a} at {later_end}" for (later_end, a), (end, b) in later[:3])
    more = f" and {len(later) - 3} more" if len(later) > 3 else ""
    return [f"{said}, but not in strict order: {pairs}{more}."]


def _vanishing(ours: Analysis, layers: Sequence[Sequence[str]]) -> list[str]:
    """When the last mismatch of each layer has gone; of layers that lie side by side, the last of them all."""
    gone = {name: _last(layer.more + layer.fewer) + 1 for name, layer in ours.layers.items()}
    if len(gone) < 2:
        return [f"The layer is right from step {step} on." for step in gone.values()]
    steps = [max(gone[name] for name in side_by_side) for side_by_side in layers]
    if len(steps) == 1:
        return [f"{_enumerated([f'{name} is right from step {step} on' for name, step in gone.items()])}."]
    ordered = all(a <= b for a, b in itertools.pairwise(steps))
    how = "layer by layer" if ordered else "on the whole from shallow to deep"
    first, last = steps[0], steps[-1]
    return [f"Mismatches vanish {how}: the first layer is right from step {first} on, the last from step {last} on."]


def _enumerated(parts: Sequence[str]) -> str:
    """As in a sentence.

    >>> _enumerated(["a"]), _enumerated(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([*filter(None, [", ".join(parts[:-1])]), parts[-1]])


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


def _cost(ours: Analysis, baseline: Analysis | None, table: EnergyTable) -> Sequence[str]:
    ann = ours.ann_energy(table)
    if ann == 0.0:
        return []
    spent = float(ours.energy(table)[-1])
    said = f"Once silent, CASC has spent {spent / ann:.3g} times the ANN's energy"
    if baseline is None:
        return [f"{said}."]
    return [f"{said}; the baseline spends {float(baseline.energy(table)[-1]) / ann:.3g} times by step {baseline.T}."]
