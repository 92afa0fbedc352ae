"""The files of an evaluation: tables, JSON and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casc_core.evidence.against_ann import AgainstANN
from casc_core.reporting.series import steps_to_silence
from casc_core.reporting.tables import markdown_table
from casc_core.rivals.methods import OURS
from casc_core.storage.files import write_whole
from casc_core.storage.json_files import write_json
from casc_lab.evaluation.methods import Evaluation
from casc_lab.evaluation.picture import accuracy_picture


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


def as_json(evaluation: Evaluation, published: Published | None = None) -> dict[str, Any]:
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
        "exact": evaluation.exact,
        "against_ann": _beside(evaluation.against_ann),
        "steps_to_silence": steps_to_silence(evaluation.silent_at),
        "exact_at": evaluation.exact_at,
        "published": None if published is None else dataclasses.asdict(published),
    }


def _beside(against_ann: AgainstANN | None) -> dict[str, Any] | None:
    if against_ann is None:
        return None
    return {name: dataclasses.asdict(getattr(against_ann, name)) for name in ("lowering", "grid", "float32")}


def accuracy_table(evaluation: Evaluation, published: Published | None = None) -> str:
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
    return markdown_table([[corner, *(key if key == "silent" else f"T={key}" for key in keys)], *body])


def exactness_lines(evaluation: Evaluation) -> str:
    """What the table does not show: exactness and steps to silence, in a few lines."""
    samples, silence = len(evaluation.silent_at), steps_to_silence(evaluation.silent_at)
    return "\n".join(
        [
            f"CIF+WSC until silent against its reference: predictions of {evaluation.prediction_mismatches} of {samples:,} "
            f"samples differ, largest logit difference {evaluation.max_logit_difference:g}",
            *([] if evaluation.against_ann is None else [str(evaluation.against_ann)]),
            "the reference against the ANN as trained, in its own types: predictions of "
            f"{evaluation.ann_prediction_mismatches} of {samples:,} samples differ, largest "
            f"logit difference {evaluation.ann_max_logit_difference:.2g}",
            f"steps to silence: mean {silence['mean']:.2f}, median {silence['p50']:.0f}, 99th percentile "
            f"{silence['p99']:.0f}, largest {silence['max']:.0f}",
            "never exact" if evaluation.exact_at is None else f"exact for every sample from T={evaluation.exact_at} on",
        ]
    )


def _percent(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"


def write_results(
    folder: Path, evaluation: Evaluation, extra: dict[str, Any], title: str, published: Published | None = None
) -> None:
    """Write `table.md`, `accuracy.png` and, last, `results.json` to `folder`, each whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    parts = [
        f"# {title}",
        accuracy_table(evaluation, published),
        mismatch_table(evaluation),
        exactness_lines(evaluation),
    ]
    write_whole(folder / "table.md", "\n\n".join(parts) + "\n")
    write_whole(folder / "accuracy.png", accuracy_picture(evaluation, title))
    write_json(folder / "results.json", as_json(evaluation, published) | extra)
