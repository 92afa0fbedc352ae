"""An evaluation as a table, a JSON file and a picture."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from casc_core.rivals.methods import OURS
from casc_core.storage.files import write_whole
from casc_lab.evaluation.accuracy import Evaluation


@dataclass(frozen=True)
class Published:
    """What the paper reports for an experiment, to stand beside ours.

    Args:
        source: where in the paper, and on what.
        ann: accuracy of its ANN, percent.
        accuracy: percent by method and T.

    >>> Published("Table 9", 90.0, {"baseline": {4: 71.5}}).cells("baseline", ["4", "8", "silent"])
    ['71.50', '-', '-']
    """

    source: str
    ann: float
    accuracy: Mapping[str, Mapping[int, float]]

    def cells(self, method: str, keys: Iterable[str]) -> list[str]:
        """The row of a method under columns `keys`; "-" where the paper has no figure."""
        figures = {str(step): f"{value:.2f}" for step, value in self.accuracy[method].items()}
        return [figures.get(key, "-") for key in keys]


def steps_to_silence(silent_at: Tensor) -> dict[str, float]:
    """Mean, median, 99th percentile and largest of the steps to silence.

    >>> steps_to_silence(torch.tensor([3, 4, 5]))
    {'mean': 4.0, 'p50': 4.0, 'p99': 5.0, 'max': 5.0}
    """
    values = silent_at.double()
    p50, p99 = (float(torch.quantile(values, q, interpolation="higher")) for q in (0.5, 0.99))
    return {"mean": round(float(values.mean()), 4), "p50": p50, "p99": p99, "max": float(values.max())}


def summary(evaluation: Evaluation, published: Published | None = None) -> dict[str, Any]:
    """The figures of an evaluation, as JSON; the paper's, if there are any, are under "published"."""
    return {
        "ann_accuracy": evaluation.ann_accuracy,
        "reference_accuracy": evaluation.reference_accuracy,
        "accuracy": {name: method.accuracy for name, method in evaluation.methods.items()},
        "mismatches": {name: method.mismatches for name, method in evaluation.methods.items()},
        "prediction_mismatches": evaluation.prediction_mismatches,
        "max_logit_difference": evaluation.max_logit_difference,
        "ann_prediction_mismatches": evaluation.ann_prediction_mismatches,
        "ann_max_logit_difference": evaluation.ann_max_logit_difference,
        "steps_to_silence": steps_to_silence(evaluation.silent_at),
        "exact_at": evaluation.exact_at,
        "published": None if published is None else dataclasses.asdict(published),
    }


def table(evaluation: Evaluation, published: Published | None = None) -> str:
    """Accuracy of each method over time, in Markdown; the paper's own figures, if given, below ours and named so."""
    rows = [[name, *map(_percent, method.accuracy.values())] for name, method in evaluation.methods.items()]
    keys = list(evaluation.methods[OURS].accuracy)
    rows.append(["ANN", *[_percent(evaluation.ann_accuracy)] * len(keys)])
    ours = _markdown("accuracy (%)", evaluation, rows)
    if published is None:
        return ours
    theirs = [[name, *published.cells(name, keys)] for name in published.accuracy]
    theirs.append(["ANN", *[_percent(published.ann)] * len(keys)])
    return f"{ours}\n\nThe paper's own figures, {published.source}:\n\n{_markdown('paper (%)', evaluation, theirs)}"


def mismatch_table(evaluation: Evaluation) -> str:
    """How many predictions of each method differ from the quantised ANN's over time, in Markdown."""
    rows = [
        [name, *("never" if count is None else f"{count:,}" for count in method.mismatches.values())]
        for name, method in evaluation.methods.items()
    ]
    return _markdown("predictions that differ", evaluation, rows)


def _markdown(corner: str, evaluation: Evaluation, body: list[list[str]]) -> str:
    keys = evaluation.methods[OURS].accuracy
    return markdown([[corner, *(key if key == "silent" else f"T={key}" for key in keys)], *body])


def markdown(rows: list[list[str]]) -> str:
    """A table in Markdown, its first row the header; the first column is aligned left, the others right.

    >>> print(markdown([["q", "ANN"], ["8", "94.62"]]))
    | q |   ANN |
    |---|------:|
    | 8 | 94.62 |
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(_cells(row, widths)) + " |" for row in rows]
    rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)


def findings(evaluation: Evaluation) -> str:
    """What the table does not show: exactness and steps to silence, in a few lines."""
    samples, silence = len(evaluation.silent_at), steps_to_silence(evaluation.silent_at)
    return "\n".join(
        [
            f"CIF+WSC until silent against its reference: {evaluation.prediction_mismatches} of {samples:,} predictions "
            f"differ, largest logit difference {evaluation.max_logit_difference:g}",
            f"the reference (snapped weights) against the ANN as trained: {evaluation.ann_prediction_mismatches} of "
            f"{samples:,} predictions differ, largest logit difference {evaluation.ann_max_logit_difference:.2g}",
            f"steps to silence: mean {silence['mean']:.2f}, median {silence['p50']:.0f}, 99th percentile "
            f"{silence['p99']:.0f}, largest {silence['max']:.0f}",
            "never exact" if evaluation.exact_at is None else f"exact for every sample from T={evaluation.exact_at} on",
        ]
    )


def _percent(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"


def _cells(row: list[str], widths: list[int]) -> list[str]:
    return [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]


COLOURS, MARKERS = ("#c44e52", "#dd8452", "#8172b3", "#1b7f5c"), ("o", "s", "^", "D")


def picture(evaluation: Evaluation, title: str) -> bytes:
    """Accuracy, and predictions that differ from the quantised ANN's, over time as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    steps = [int(key) for key in evaluation.methods[OURS].accuracy if key != "silent"]
    left.axhline(evaluation.ann_accuracy, color="0.45", linestyle=":", label=f"ANN {evaluation.ann_accuracy:.2f}%")
    for index, (name, method) in enumerate(evaluation.methods.items()):
        style = {
            "color": COLOURS[index % 4], "marker": MARKERS[index % 4], "markersize": 5.0, "linewidth": 1.8, "label": name,
        }  # fmt: skip
        left.plot(steps, [method.accuracy[str(step)] or 0.0 for step in steps], **style)
        right.plot(steps, [method.mismatches[str(step)] or 0 for step in steps], **style)
    left.set_ylabel("test accuracy (%)")
    right.set_ylabel(f"predictions that differ from the ANN's, of {len(evaluation.silent_at):,}")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()
        axes.set_xlabel("time steps T")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def write_results(
    folder: Path, evaluation: Evaluation, extra: dict[str, Any], title: str, published: Published | None = None
) -> None:
    """Write `table.md`, `accuracy.png` and, last, `results.json` to `folder`, each whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    parts = [f"# {title}", table(evaluation, published), mismatch_table(evaluation), findings(evaluation)]
    write_whole(folder / "table.md", "\n\n".join(parts) + "\n")
    write_whole(folder / "accuracy.png", picture(evaluation, title))
    write_whole(folder / "results.json", json.dumps(summary(evaluation, published) | extra, indent=2) + "\n")
