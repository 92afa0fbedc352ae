"""The figures of one method, from its analysis, as JSON holds them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from casc_core.evidence.analysis import Analysis, LayerAnalysis, OutputAnalysis
from casc_core.evidence.energy import EnergyTable
from casc_core.reporting.series import last_repeated, steps_to_silence, zero_padded
from casc_core.rivals.methods import FOUR, OURS, Method

# What lies behind this many positions, few texts reach; it is left out.
_MOST_POSITIONS = 200


def method_figures(
    name: str, method: Method, analysis: Analysis, T: int, table: EnergyTable, sleeps: bool
) -> dict[str, Any]:
    """All figures of a method, by step up to T, for one sample on average.

    Args:
        sleeps: it falls silent.
    """
    single = analysis.returned.is_single
    outputs = {output: _output_figures(each, T) for output, each in analysis.outputs.items()}
    whole = {"mismatches": _counts(analysis.mismatches, T), "accuracy": None, "error": None, "mse": None}
    exact_at = int(analysis.exact_at.max()) if bool((analysis.exact_at > 0).all()) else None
    return {
        "name": name,
        "label": method.label or name,
        "ours": name == OURS,
        "group": "Table 6" if name in FOUR else "rival",
        "config": method.config,
        "equations": method.equations,
        "source": method.source,
        "note": method.note,
        "exact": analysis.exact and not method.own_levels,
        "exact_at": exact_at,
        **(next(iter(outputs.values())) if single else whole),
        "outputs": {} if single else outputs,
        "spikes": rounded(zero_padded(analysis.spikes, T).cumsum(0)),
        "macs": rounded(zero_padded(analysis.multiply_accumulates, T).cumsum(0)),
        "acs": rounded(zero_padded(analysis.accumulates, T).cumsum(0)),
        "energy_nj": rounded(last_repeated(analysis.energy(table), T) / 1e3),
        "silence": silence_steps(analysis.silent_at) if sleeps else None,
        "layers": [_layer_figures(layer, own, T, sleeps) for layer, own in analysis.layers.items()],
    }


def _output_figures(output: OutputAnalysis, T: int) -> dict[str, Any]:
    return {
        "accuracy": None if output.accuracy is None else rounded(last_repeated(output.accuracy, T), 4),
        "error": None if output.error is None else rounded(last_repeated(output.error, T)),
        "mismatches": _counts(output.mismatches, T),
        "mse": rounded(last_repeated(output.mse, T)),
    }


def _counts(series: Tensor, T: int) -> list[int]:
    return [int(count) for count in last_repeated(series, T)]


def _layer_figures(name: str, layer: LayerAnalysis, T: int, sleeps: bool) -> dict[str, Any]:
    positions = None
    if layer.positions is not None:
        positions = {
            "mismatch": rounded(layer.positions.mismatch[:_MOST_POSITIONS]),
            "silent_at": rounded(layer.positions.silent_at[:_MOST_POSITIONS]),
        }
    return {
        "name": name,
        "neurons": layer.neurons,
        "more": rounded(last_repeated(layer.more, T)),
        "fewer": rounded(last_repeated(layer.fewer, T)),
        "relative_error": rounded(last_repeated(layer.relative_error, T)),
        "positive": rounded(zero_padded(layer.positive, T)),
        "negative": rounded(zero_padded(layer.negative, T)),
        "acs": rounded(zero_padded(layer.accumulates, T)),
        "macs": rounded(zero_padded(layer.multiply_accumulates, T)),
        "ann_macs": layer.ann_multiply_accumulates,
        "silence": silence_steps(layer.silent_at) if sleeps else None,
        "positions": positions,
    }


def silence_steps(silent_at: Tensor) -> dict[str, int]:
    """Median, 99th percentile and largest of the steps to silence."""
    steps = steps_to_silence(silent_at)
    return {key: int(steps[key]) for key in ("p50", "p99", "max")}


def rounded(series: Tensor, digits: int = 6) -> list[float]:
    """As JSON, with as many significant digits as a picture or a table needs."""
    return [float(f"{value:.{digits + 1}g}") for value in series.tolist()]
