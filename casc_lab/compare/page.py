"""The report of a comparison: one self-contained HTML page, for a screen, a phone and paper."""

from __future__ import annotations

import html

from casc_lab.compare import tables
from casc_lab.compare.cost_figures import operation_figures
from casc_lab.compare.figures import figures
from casc_lab.compare.measure import Comparison
from casc_lab.compare.verdict import verdict
from casc_lab.html.style import STYLE
from casc_lab.html.table import pairs_table

_PAPER = (
    "Figures are numbered as in the paper: Li et al., Spiking Neural Networks with Consistent Mapping Relations Allow "
    "High-Accuracy Inference. T: time steps."
)


def page(comparison: Comparison) -> str:
    """The page of what `casc_lab.compare.comparison.compare` returns.

    It needs no network, no script and no font of its own; the same comparison gives the same page.

    >>> import torch, casc_core
    >>> from casc_lab.compare.comparison import compare
    >>> from casc_lab.compare.network_and_data import NetworkAndData
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), casc_core.CQReLU(q=2), torch.nn.Linear(8, 2))
    >>> data = [(torch.randn(9, 4),)]
    >>> network = NetworkAndData(casc_core.convert(model), None, lambda: data, None, "tiny <b>", "noise", {})
    >>> text = page(compare(network, T=4))
    >>> text.startswith("<!DOCTYPE html>"), "tiny &lt;b&gt;" in text, "<b>" in text
    (True, True, False)
    """
    title = html.escape(comparison["title"])
    data = html.escape(comparison["data"]["source"])
    compared = (
        f"{len(comparison['methods'])} methods, {comparison['data']['samples']:,} samples, T = {comparison['T']}."
    )
    body = [
        f"<header><h1>{title}</h1><p class='soft'>{data}. {compared}</p></header>",
        verdict(comparison),
        "<section><h2>Methods over time</h2>",
        tables.over_time(comparison),
        tables.costs(comparison),
        tables.left_out(comparison),
        "</section>",
        _findings(comparison),
        f"<p class='soft'>{_PAPER}</p>",
        figures(comparison),
        operation_figures(comparison),
        "<section><h2>Equivalence</h2>",
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


def _findings(comparison: Comparison) -> str:
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in comparison["findings"])
    return f"<section><h2>What the figures say of the paper's claims</h2><ul>{items}</ul></section>" if items else ""


def _equivalence(comparison: Comparison) -> str:
    found = comparison["equivalence"]
    verdict = "Exact" if found["exact"] else "Not exact"
    logits = "every logit is equal, bit for bit" if found["logits_equal"] else "logits differ"
    return f"{verdict}: CASC until silent, {found['samples']:,} samples; {logits}."


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
        f"<div class='tables'>{pairs_table(network, 'The network.')}"
        f"{pairs_table(comparison['configuration'], 'Its configuration.') if comparison['configuration'] else ''}"
        f"{pairs_table(comparison['environment'], 'The environment.')}</div></section>"
    )
