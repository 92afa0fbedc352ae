"""The verdict at the head of the report."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from casc_lab.compare.tables import Comparison, chain, joules, measure, ours, times


def verdict(comparison: Comparison) -> str:
    """Whether our method is exact, from when, at what cost; the nearest other method; what the weights' grid moved."""
    (number,) = ours(comparison)
    own = comparison["methods"][number]
    lowering = comparison["lowering"]
    faulty = lowering is not None and not lowering["exact"]
    head = f"Exact from T = {own['exact_at']}" if own["exact"] and not faulty else "Not exact"
    said = " ".join(filter(None, [_ours(comparison, own), _silence(own), _cost(comparison, own), _nearest(comparison)]))
    return (
        f'<section class="verdict{"" if own["exact"] and not faulty else " bad"}"><strong>{html.escape(head)}</strong>'
        f"<p>{html.escape(said)}</p><p>{html.escape(moved(comparison))}</p></section>"
    )


def _ours(comparison: Comparison, own: Mapping[str, Any]) -> str:
    samples, T = comparison["data"]["samples"], comparison["T"]
    if not own["exact"]:
        return f"{own['label']}: {own['mismatches'][-1]:,} of {samples:,} predictions differ from the quantised ANN's."
    later = f" That is beyond the T = {T} shown here." if own["exact_at"] > T else ""
    return (
        f"{own['label']}: 0 of {samples:,} predictions differ from the quantised ANN's; every logit and every spike "
        f"count of every neuron is the same, bit for bit.{later}"
    )


def _silence(own: Mapping[str, Any]) -> str:
    silence = own["silence"]
    if silence is None:
        return ""
    return f"The median sample is silent after step {silence['p50']}, the slowest after {silence['max']}."


def _cost(comparison: Comparison, own: Mapping[str, Any]) -> str:
    spent, ann = own["energy_nj"][-1], comparison["ann"]["energy_nj"]
    if ann == 0.0:
        return f"A sample takes {joules(spent)} up to T = {comparison['T']}."
    return f"A sample takes {joules(spent)} up to T = {comparison['T']}, {times(spent, ann)} times the ANN's {joules(ann)}."


def _nearest(comparison: Comparison) -> str:
    """The other method with the fewest differing predictions at the end; of these, the cheapest."""
    others = [method for method in comparison["methods"] if not method["ours"]]
    if not others:
        return ""
    best = min(others, key=lambda method: (method["mismatches"][-1], method["energy_nj"][-1]))
    ann, spent = comparison["ann"]["energy_nj"], best["energy_nj"][-1]
    cost = f"{joules(spent)} ({times(spent, ann)} times the ANN's)" if ann else joules(spent)
    return (
        f"The nearest of the other methods at T = {comparison['T']}: {best['label']}, with {best['mismatches'][-1]:,} "
        f"predictions that differ, for {cost}."
    )


def moved(comparison: Comparison) -> str:
    """What lies between the network as trained and the one that the spiking network equals, step by step."""
    samples, calibrated, said = comparison["data"]["samples"], comparison.get("calibrated"), ""
    name = "ANN as trained"
    if calibrated is not None:
        name = "calibrated ANN"
        said = (
            "This network was not trained with quantised activations: giving it levels by calibration is NOT LOSSLESS, and "
            f"moved {calibrated['predictions_moved']:,} of {samples:,} predictions of the network as trained, "
            f"logits by up to {calibrated['max_logit_difference']:.2g}. "
        )
    said += (
        f"Putting the weights on their grid ({comparison['network']['weights']}), and summing without rounding, moved "
        f"{comparison['ann_predictions_moved']:,} of {samples:,} predictions of the {name}, logits by up to "
        f"{comparison['ann_max_logit_difference']:.2g}."
    )
    if comparison["lowering"] is not None:
        told = comparison["lowering"]["said"]
        said = f"{told[0].upper()}{told[1:]}. {said}"
    kind = measure(comparison)
    if kind is None:
        return said
    unit = "%" if kind.unit == "%" else ""
    met = ", ".join(f"{name} {kind.shown(value)}{unit}" for name, value in chain(comparison).items())
    return f"{said} {kind.name.capitalize()}: {met}."
