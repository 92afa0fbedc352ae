"""A text's spikes as a page: a raster of all neurons, word by word, and the class probabilities over time."""

from __future__ import annotations

import html

from torch import Tensor

from casc_seq.classify.classified_text import ClassifiedText

_STYLE = """
:root{--ink:#1b1f24;--soft:#5b6470;--paper:#fff;--line:#d8dde3;--plus:#0b5cad;--minus:#c2410c;--bar:#0b5cad}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4b0;--paper:#14171b;--line:#343a42;--plus:#6cb2ff;
--minus:#ff9a5c;--bar:#6cb2ff}}
body{margin:0 auto;max-width:1000px;padding:1.2rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.3rem;line-height:1.3;margin:0 0 .3rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem}
p,figcaption{color:var(--soft);margin:.2rem 0}figure{margin:0}.wide{overflow-x:auto}
svg{display:block}svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .soft{fill:var(--soft)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.2rem .6rem;text-align:right;
border-bottom:1px solid var(--line)}th:first-child{text-align:left}.most{font-weight:700}
@media print{:root{--ink:#000;--soft:#444;--paper:#fff;--line:#bbb;--plus:#0b5cad;--minus:#c2410c}
figure{break-inside:avoid}}
"""
# Sizes of the raster, in pixels: a step of a word, a neuron, what lies around.
_STEP, _GAP, _HEIGHT, _TOP, _LEFT = 7, 8, 200, 84, 12


def raster_page(classified: ClassifiedText) -> str:
    """A page of its own, readable offline."""
    answer = html.escape(classified.classes[classified.answer])
    share = 100 * float(classified.probabilities[-1].max())
    how = "the quantised ANN's, bit for bit" if classified.exact else "not yet the quantised ANN's"
    figures = "".join(
        f"<h2>{html.escape(name)}: {train.shape[2]} neurons for each word</h2>"
        f'<figure><div class="wide">{_raster(classified.words, train, name)}</div></figure>'
        for name, train in classified.spikes.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{answer}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(classified.text)}</h1>"
        f"<p><strong>{answer}</strong> ({share:.1f}%); {classified.when}; the answer is {how}.</p>"
        f"<h2>Class probabilities after each step (%)</h2><div class='wide'>{_probabilities(classified)}</div>"
        "<p>Below, each word has a column with its time steps from left to right, and a row for each neuron: blue where it "
        "emits +1, orange where it takes a spike back.</p>"
        f"{figures}</body></html>\n"
    )


def _probabilities(classified: ClassifiedText) -> str:
    answers = classified.answers.tolist()
    head = "".join(f'<th scope="col">T={step}</th>' for step in range(1, len(answers) + 1))
    rows = []
    for index, name in enumerate(classified.classes):
        cells = "".join(
            f"<td{' class=most' if answer == index else ''}>{100 * float(row[index]):.1f}</td>"
            for row, answer in zip(classified.probabilities, answers, strict=True)
        )
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    return f'<table><tr><th scope="col">class</th>{head}</tr>{"".join(rows)}</table>'


def _raster(words: list[str], train: Tensor, name: str) -> str:
    steps, count, neurons = train.shape
    column = steps * _STEP + _GAP
    width, row = _LEFT + count * column + _TOP, _HEIGHT / neurons
    marks: dict[int, list[str]] = {1: [], -1: []}
    for step, word, neuron in train.nonzero().tolist():
        sign = 1 if int(train[step, word, neuron]) > 0 else -1
        marks[sign].append(f"M{_LEFT + word * column + step * _STEP} {_TOP + (neuron + 0.5) * row:.4g}h{_STEP - 1}")
    thick = f'stroke-width="{max(0.8, row * 0.9):.2g}"'
    paths = "".join(
        f'<path d="{"".join(parts)}" stroke="var(--{"plus" if sign > 0 else "minus"})" {thick}/>'
        for sign, parts in marks.items()
        if parts
    )
    names = "".join(
        f'<text transform="translate({_LEFT + place * column + 6} {_TOP - 8}) rotate(-45)">{html.escape(word)}</text>'
        f'<path d="M{_LEFT + place * column - _GAP / 2} {_TOP}v{_HEIGHT}" stroke="var(--line)"/>'
        for place, word in enumerate(words)
    )
    said = f"{int(train.abs().sum())} spikes of {neurons} neurons for each of {count} words"
    return (
        f'<svg width="{width}" height="{_TOP + _HEIGHT + 8}" viewBox="0 0 {width} {_TOP + _HEIGHT + 8}" role="img" '
        f'aria-label="{html.escape(name)}: {said}">{names}{paths}</svg>'
    )
