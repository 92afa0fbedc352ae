"""The verdict at the head of the report."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from casc_lab.compare.measure import Comparison, answers, by_output, measure, of_output, scores_of_anns
from casc_lab.compare.tables import ours
from casc_lab.compare.units import joules, ratio


def verdict(comparison: Comparison) -> str:
    """Whether our method is exact, from when, at what cost; the nearest other method; what the weights' grid moved."""
    (number,) = ours(comparison)
    own = comparison["methods"][number]
    beside = comparison["against_ann"]
    faulty = beside is not None and not beside["exact"]
    head = f"Exact from T = {own['exact_at']}" if own["exact"] and not faulty else "Not exact"
    said = " ".join(filter(None, [_ours(comparison, own), _silence(own), _cost(comparison, own), _nearest(comparison)]))
    return (
        f'<section class="verdict{"" if own["exact"] and not faulty else " bad"}"><strong>{html.escape(head)}</strong>'
        f"<p>{html.escape(said)}</p><p>{html.escape(differences_by_step(comparison))}</p></section>"
    )


def _ours(comparison: Comparison, own: Mapping[str, Any]) -> str:
    samples, T = comparison["data"]["samples"], comparison["T"]
    differing = 0 if own["exact"] else own["mismatches"][-1]
    who = f"{own['label']}: {answers(comparison)} of {differing:,} of {samples:,} samples"
    if not own["exact"]:
        return f"{who} differ from the quantised ANN's."
    later = f" That is beyond the T = {T} shown here." if own["exact_at"] > T else ""
    return (
        f"{who} differ from the quantised ANN's; every logit and every spike count of every neuron is the same, bit for "
        f"bit.{later}"
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
    return f"A sample takes {joules(spent)} up to T = {comparison['T']}, {ratio(spent, ann)} times the ANN's {joules(ann)}."


def _nearest(comparison: Comparison) -> str:
    """The other method with the fewest samples that differ at the end; of these, the cheapest."""
    others = [method for method in comparison["methods"] if not method["ours"]]
    if not others:
        return ""
    best = min(others, key=lambda method: (method["mismatches"][-1], method["energy_nj"][-1]))
    ann, spent = comparison["ann"]["energy_nj"], best["energy_nj"][-1]
    cost = f"{joules(spent)} ({ratio(spent, ann)} times the ANN's)" if ann else joules(spent)
    return (
        f"The nearest of the other methods at T = {comparison['T']}: {best['label']}, with {best['mismatches'][-1]:,} "
        f"samples whose {answers(comparison)} differ, for {cost}."
    )


def differences_by_step(comparison: Comparison) -> str:
    """What lies between the network as trained and the one that the spiking network equals, step by step."""
    samples, calibrated, said = comparison["data"]["samples"], comparison.get("calibrated"), ""
    name = "ANN as trained"
    if calibrated is not None:
        name = "calibrated ANN"
        said = (
            "This network was not trained with quantised activations: giving it levels by calibration is NOT LOSSLESS, and "
            f"moved {_moved(calibrated['predictions_moved'], samples, 'network as trained')}logits by up to "
            f"{calibrated['max_logit_difference']:.2g}. "
        )
    if comparison["against_ann"] is not None:
        said += " ".join(f"{line[0].upper()}{line[1:]}." for line in comparison["against_ann"]["said"]) + " "
    said += (
        f"All together, from the {name} in its own types to the spiking network ({comparison['network']['weights']}): "
        f"{_moved(comparison['ann_predictions_moved'], samples, name)}logits by up to "
        f"{comparison['ann_max_logit_difference']:.2g}."
    )
    for output, view in by_output(comparison):
        kind = measure(view)
        if kind is not None:
            unit = "%" if kind.unit == "%" else ""
            met = ", ".join(f"{name} {kind.shown(value)}{unit}" for name, value in scores_of_anns(view).items())
            said += f" {kind.name[0].upper()}{kind.name[1:]}{of_output(output)}: {met}."
    return said


def _moved(predictions: int | None, samples: int, network: str) -> str:
    """How many predictions moved, if the network makes some."""
    return "" if predictions is None else f"predictions of the {network} for {predictions:,} of {samples:,} samples, "
