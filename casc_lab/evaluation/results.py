"""The files of an evaluation: tables, JSON and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casc_core.evidence.against_ann import AgainstANN
from casc_core.reporting.series import steps_to_silence
from casc_core.reporting.tables import markdown_table
from casc_core.storage.files import write_whole
from casc_core.storage.json_files import write_json
from casc_lab.evaluation.methods import SILENT, Evaluation, MethodResult
from casc_lab.evaluation.metric import Score
from casc_lab.evaluation.picture import evaluation_picture


@dataclass(frozen=True)
class PublishedRow:
    """What the paper reports of one method: of the ANN that was converted, and by time step."""

    method: str
    ann: float
    over_time: Mapping[int, float]


@dataclass(frozen=True)
class Published:
    """What the paper reports for an experiment, to stand beside ours.

    Args:
        source: where in the paper, and on what.
        what: the figures are, with their unit.
        rows: one for each method.

    >>> print(Published("Table 9", "accuracy (%)", [PublishedRow("baseline", 90.0, {4: 71.5, 8: 88.25})]).table())
    | accuracy (%) |   ANN |   T=4 |   T=8 |
    |--------------|------:|------:|------:|
    | baseline     | 90.00 | 71.50 | 88.25 |
    """

    source: str
    what: str
    rows: Sequence[PublishedRow]

    def table(self) -> str:
        """In Markdown; "-" where the paper has no figure."""
        steps = sorted({step for row in self.rows for step in row.over_time})
        body = [
            [row.method, f"{row.ann:.2f}", *(f"{row.over_time[T]:.2f}" if T in row.over_time else "-" for T in steps)]
            for row in self.rows
        ]
        return markdown_table([[self.what, "ANN", *(f"T={step}" for step in steps)], *body])


def as_json(evaluation: Evaluation, published: Published | None = None) -> dict[str, Any]:
    """The figures of an evaluation, as JSON; the paper's, if there are any, are under "published"."""
    key = evaluation.metric.key

    def each(get: Callable[[Score], Any]) -> dict[str, Any]:
        return {
            name: {step: None if score is None else get(score) for step, score in method.scores.items()}
            for name, method in evaluation.methods.items()
        }

    return {
        f"ann_{key}": evaluation.ann.value,
        f"reference_{key}": evaluation.reference.value,
        key: each(lambda score: score.value),
        "mismatches": each(lambda score: score.mismatches),
        "differing": each(lambda score: dict(score.differing)),
        "energy_nj": {name: method.energy for name, method in evaluation.methods.items()},
        "ann_energy_nj": evaluation.ours.ann_energy,
        "prediction_mismatches": evaluation.end.mismatches,
        "max_logit_difference": evaluation.ours.largest_difference,
        "ann_prediction_mismatches": evaluation.ann.mismatches,
        "ann_differing": dict(evaluation.ann.differing),
        "ann_max_logit_difference": evaluation.ann_largest_difference,
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


def tables(evaluation: Evaluation, published: Published | None = None) -> list[str]:
    """Each figure of the score, what differs from the quantised ANN, and energy over time, by method, in Markdown; the
    paper's own figures, if given, after ours and named so."""
    shown = [_scores(evaluation, name, number) for number, name in enumerate(evaluation.metric.names)]
    shown.append(
        _over_time(
            evaluation, evaluation.metric.differing,
            lambda method, key: "never" if (score := method.scores[key]) is None else f"{score.differences:,}",
        )
    )  # fmt: skip
    shown.append(
        _over_time(
            evaluation, "energy (nJ a sample)",
            lambda method, key: "never" if (energy := method.energy[key]) is None else _four_digits(energy),
            _four_digits(evaluation.ours.ann_energy),
        )
    )  # fmt: skip
    if published is not None:
        shown.append(f"The paper's own figures, {published.source}:\n\n{published.table()}")
    return shown


def _four_digits(value: float) -> str:
    """A number in four digits, or in all of those before the point.

    >>> _four_digits(12345.6), _four_digits(12.3456)
    ('12,346', '12.35')
    """
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}"


def _scores(evaluation: Evaluation, name: str, number: int) -> str:
    digits = ".2f" if name.endswith("(%)") else ".4g"

    def cell(method: MethodResult, key: str) -> str:
        score = method.scores[key]
        return "never" if score is None else f"{score.figures[number]:{digits}}"

    return _over_time(evaluation, name, cell, f"{evaluation.ann.figures[number]:{digits}}")


def _over_time(
    evaluation: Evaluation, corner: str, cell: Callable[[MethodResult, str], str], ann: str | None = None
) -> str:
    keys = list(evaluation.ours.scores)
    rows = [[corner, *(key if key == SILENT else f"T={key}" for key in keys)]]
    rows += [[name, *(cell(method, key) for key in keys)] for name, method in evaluation.methods.items()]
    rows += [] if ann is None else [["ANN", *[ann] * len(keys)]]
    return markdown_table(rows)


def exactness_lines(evaluation: Evaluation) -> str:
    """What the tables do not show: exactness and steps to silence, in a few lines."""
    metric, samples = evaluation.metric, len(evaluation.silent_at)
    silence = steps_to_silence(evaluation.silent_at)
    return "\n".join(
        [
            f"CIF+WSC until silent against its reference: {metric.said(evaluation.end, samples)}, largest logit difference "
            f"{evaluation.ours.largest_difference:g}",
            *([] if evaluation.against_ann is None else [str(evaluation.against_ann)]),
            f"the reference against the ANN as trained, in its own types: {metric.said(evaluation.ann, samples)}, largest "
            f"logit difference {evaluation.ann_largest_difference:.2g}",
            *metric.notes,
            f"steps to silence: mean {silence['mean']:.2f}, median {silence['p50']:.0f}, 99th percentile "
            f"{silence['p99']:.0f}, largest {silence['max']:.0f}",
            "never exact" if evaluation.exact_at is None else f"exact for every sample from T={evaluation.exact_at} on",
        ]
    )


def as_text(evaluation: Evaluation, published: Published | None = None) -> str:
    """All tables and lines, in Markdown."""
    return "\n\n".join([*tables(evaluation, published), exactness_lines(evaluation)])


def write_results(
    folder: Path,
    evaluation: Evaluation,
    extra: Mapping[str, Any],
    title: str,
    published: Published | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> list[str]:
    """Write `table.md`, pictures and, last, `results.json` to `folder`, each whole or not at all; gives their names.

    Args:
        extra: what `results.json` holds besides.
        pictures: further ones by the name of their file, beside that of the score over time.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_whole(folder / "table.md", f"# {title}\n\n{as_text(evaluation, published)}\n")
    all_pictures = {f"{evaluation.metric.key}.png": evaluation_picture(evaluation, title), **(pictures or {})}
    for name, picture in all_pictures.items():
        write_whole(folder / name, picture)
    write_json(folder / "results.json", as_json(evaluation, published) | dict(extra))
    return ["results.json", "table.md", *all_pictures]
