"""The report of a comparison: one self-contained HTML page, for a screen, a phone and paper."""

from __future__ import annotations

import html
from typing import Any

from casc_core.compare import tables
from casc_core.compare.figures import figures
from casc_core.compare.style import STYLE
from casc_core.compare.tables import Comparison, times


def page(comparison: Comparison) -> str:
    """The page of what `casc_core.compare.comparison.compare` returns.

    It needs no network, no script and no font of its own; the same comparison gives the same page.

    >>> import torch, casc_core
    >>> from casc_core.compare.comparison import Subject, compare
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), casc_core.CQReLU(q=2), torch.nn.Linear(8, 2))
    >>> subject = Subject(casc_core.convert(model), None, lambda: [(torch.randn(9, 4),)], None, "tiny <b>", "noise", {})
    >>> text = page(compare(subject, T=4))
    >>> text.startswith("<!DOCTYPE html>"), "tiny &lt;b&gt;" in text, "<b>" in text
    (True, True, False)
    """
    title = html.escape(comparison["title"])
    data = html.escape(comparison["data"]["source"])
    body = [
        f"<header><h1>{title}</h1><p class='soft'>{data}</p></header>",
        _verdict(comparison),
        "<section><h2>Methods over time</h2>",
        tables.over_time(comparison),
        tables.costs(comparison),
        "</section>",
        _findings(comparison),
        figures(comparison),
        "<section><h2>Operations layer by layer</h2>",
        tables.operations(comparison),
        "</section><section><h2>Equivalence</h2>",
        f"<p>{html.escape(_equivalence(comparison))}</p>",
        tables.equivalence(comparison),
        "</section>",
        _methods(comparison),
        _setting(comparison),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _ours(comparison: Comparison) -> dict[str, Any]:
    found: dict[str, Any] = next(method for method in comparison["methods"] if method["ours"])
    return found


def _verdict(comparison: Comparison) -> str:
    ours, samples = _ours(comparison), comparison["data"]["samples"]
    ann = comparison["ann"]["energy_nj"]
    if ours["exact"]:
        head = f"Exact from T = {ours['exact_at']}"
        said = (
            f"{ours['label']}: 0 of {samples:,} predictions differ from the quantised ANN's, every logit and every spike "
            "count of every neuron is the same, bit for bit."
        )
    else:
        head = "Not exact"
        said = (
            f"{ours['label']}: {ours['mismatches'][-1]:,} of {samples:,} predictions differ from the quantised ANN's."
        )
    silence = ours["silence"]
    if silence is not None:
        said += f" The median sample is silent after step {silence['p50']}, the slowest after {silence['max']}."
    spent = times(ours["energy_nj"][-1], ann)
    said += f" It spends {spent} the ANN's energy"
    rivals = [method for method in comparison["methods"] if not method["ours"]]
    if rivals:
        best = min(rivals, key=lambda method: (method["mismatches"][-1], method["energy_nj"][-1]))
        said += (
            f". Of the other methods this comes nearest at T = {comparison['T']}: {best['label']}, with "
            f"{best['mismatches'][-1]:,} predictions that differ, for {times(best['energy_nj'][-1], ann)} the ANN's energy"
        )
    said += "."
    moved = (
        f"Putting the weights on their grid ({comparison['network']['weights']}) moved "
        f"{comparison['ann_predictions_moved']:,} of {samples:,} predictions of the ANN as trained, logits by up to "
        f"{comparison['ann_max_logit_difference']:.2g}."
    )
    if comparison["ann_accuracy"] is not None:
        before, after = comparison["ann_accuracy"], comparison["reference_accuracy"]
        moved += f" Accuracy: {before:.2f}% as trained, {after:.2f}% on the grid."
    return (
        f'<section class="verdict{"" if ours["exact"] else " bad"}"><strong>{html.escape(head)}</strong>'
        f"<p>{html.escape(said)}</p><p>{html.escape(moved)}</p></section>"
    )


def _findings(comparison: Comparison) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in comparison["findings"])
    return f"<section><h2>What the figures say of the paper's claims</h2><ul>{items}</ul></section>" if items else ""


def _equivalence(comparison: Comparison) -> str:
    found = comparison["equivalence"]
    verdict = "Exact" if found["exact"] else "Not exact"
    logits = "every logit is equal, bit for bit" if found["logits_equal"] else "logits differ"
    return f"{verdict}: CASC until silent, {found['samples']:,} samples; {logits}. {found['note']}".strip()


def _methods(comparison: Comparison) -> str:
    items = []
    for method in comparison["methods"]:
        note = f"<p>Here: {html.escape(method['note'])}.</p>" if method["note"] else ""
        items.append(
            f"<details><summary>{html.escape(method['label'])}</summary><p><code>{html.escape(method['config'])}</code></p>"
            f"<p>{html.escape(method['equations'])}</p>{note}<p class='soft'>{html.escape(method['source'])}</p></details>"
        )
    about = (
        "The first four are the combinations of neuron (IF, CIF) and schedule (continuous input, wake-sleep) of the "
        "paper's Table 6; CASC is CIF with wake-sleep. "
        "I_t: input current of a neuron at step t; v: its potential; s_t: its spikes; N: their running total; theta: its "
        "threshold."
    )
    return f"<section><h2>The methods</h2><p>{about}</p>{''.join(items)}</section>"


def _setting(comparison: Comparison) -> str:
    network = dict(comparison["network"])
    network["layers"] = ", ".join(network["layers"])
    network["parameters"] = f"{network['parameters']:,}"
    return (
        "<section><h2>How this was made</h2>"
        f"<pre><code>{html.escape(comparison['command'] or '(from Python)')}</code></pre>"
        f"<p class='soft'>{html.escape(comparison['created'])}, {comparison['seconds']:.0f} s</p>"
        f"{tables.pairs(network, 'The network.')}{tables.pairs(comparison['configuration'], 'Its configuration.')}"
        f"{tables.pairs(comparison['environment'], 'The environment.')}</section>"
    )
