"""Several outputs with a measure each, and a metric of a user's own, over a test set."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import casc_core
from casc_core.errors import ConfigError, InputError
from casc_lab.distributed import Share
from casc_lab.evaluation.accuracy import Batch
from casc_lab.evaluation.methods import Evaluation, evaluate
from casc_lab.evaluation.metric import OutputMeasures, Outputs, Score
from casc_lab.evaluation.results import as_json, exactness_lines, tables

X = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
LABELS = {"classes": torch.arange(9) % 3, "size": torch.rand(9, 2, generator=torch.Generator().manual_seed(1))}


class Two(nn.Module):
    """Classes and sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Linear(4, 12), casc_core.CQReLU(q=4))
        self.classes, self.size = nn.Linear(12, 3), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.stem(x)
        return {"classes": self.classes(h), "size": self.size(h)}


def batches(share: Share) -> list[Batch]:
    parts = share.of(torch.randperm(9, generator=torch.Generator().manual_seed(2)).split(4))
    return [Batch((X[i],), {name: each[i] for name, each in LABELS.items()}, i) for i in parts]


def overshoot(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).clamp_min(0.0).amax(1)


def evaluated(metric: OutputMeasures) -> tuple[casc_core.SpikingModel, Evaluation]:
    ann = Two().eval()
    snn = casc_core.convert(ann)
    return snn, evaluate(ann, snn, batches, [1, 2, 8], metric)


def test_each_output_has_its_measure() -> None:
    metric = OutputMeasures({"classes": "classes", "size": overshoot})
    snn, evaluation = evaluated(metric)
    assert metric.names == ["accuracy of 'classes' (%)", "overshoot of 'size'"]
    reference = snn.reference(X)
    simulation = snn.simulate(X)
    for step, score in evaluation.ours.scores_by_step.items():
        found = {name: each[min(step, simulation.T) - 1] for name, each in simulation.outputs.items()}
        predicted = found["classes"].argmax(1)
        right = 100.0 * float((predicted == LABELS["classes"]).double().mean())
        error = float(overshoot(found["size"], LABELS["size"]).double().mean())
        assert score.figures == (pytest.approx(right, abs=1e-4), pytest.approx(error, rel=1e-6))
        assert score.value == dict(zip(("classes", "size"), score.figures, strict=True))
        assert score.mismatches == int((predicted != reference["classes"].argmax(1)).sum())
    assert evaluation.exact
    told = as_json(evaluation)
    assert told["ann_scores"] == evaluation.ann.value
    assert list(told["scores"]["baseline"]) == ["1", "2", "8", "silent"]
    first, second, differing, _ = tables(evaluation)
    assert first.startswith("| accuracy of 'classes' (%)")
    assert second.startswith("| overshoot of 'size'")
    assert differing.startswith("| predictions that differ")


def test_numbers_alone_predict_nothing() -> None:
    snn, evaluation = evaluated(OutputMeasures({"size": "numbers"}))
    assert evaluation.metric.differing == "outputs that differ"
    error = (snn.reference(X)["size"] - LABELS["size"]).double().square().mean()
    assert evaluation.end.figures == (pytest.approx(float(error), rel=1e-6),)
    off = (snn.simulate(X, T=1).outputs["size"][0] != snn.reference(X)["size"]).any(1).sum()
    score = evaluation.ours.scores["1"]
    assert score is not None
    assert score.mismatches == score.differences == int(off)
    assert "outputs of 0 of 9 samples differ" in exactness_lines(evaluation)


@pytest.mark.parametrize(
    ("measures", "kind", "message"),
    [
        ({"boxes": "numbers"}, ConfigError, "no output is called 'boxes'; there are: 'classes', 'size'"),
        ({}, ConfigError, "give a measure for at least one output"),
        ("right", ConfigError, "an output is measured as 'classes', as 'numbers', or by a function"),
        ({"size": "classes"}, InputError, "labels of"),
    ],
)
def test_measures_that_do_not_fit(measures: dict[str, str] | str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        evaluated(OutputMeasures(measures))


class Spread:
    """A metric of a whole set, taken at the steps of the table alone: how far apart the largest and smallest answer are."""

    key, names, differing, notes = "spread", ["spread"], "answers that differ", ("spread is what lies between",)
    every_step, labelled, measures = False, False, "numbers"

    def __init__(self) -> None:
        self.asked = 0

    def read(self, outputs: Outputs, batch: Batch) -> Tensor:
        self.asked += 1
        return outputs["size"][:, 0]

    def compared(self, answers: Tensor, reference: Tensor, batch: Batch) -> tuple[Tensor, int]:
        return answers, int((answers != reference).sum())

    def score(self, parts: Sequence[tuple[Tensor, int]]) -> Score:
        answers, differing = torch.cat([each for each, _ in parts]), sum(count for _, count in parts)
        spread = float(answers.max() - answers.min())
        return Score((spread,), differing, {"answers": differing}, spread, answers)

    def said(self, score: Score, samples: int) -> str:
        return f"{score.mismatches} of {samples} answers differ"


def test_a_metric_of_a_whole_set() -> None:
    ann, metric = Two().eval(), Spread()
    snn = casc_core.convert(ann)
    evaluation = evaluate(ann, snn, batches, [1, 2, 64], metric)
    T = snn.simulate(X).T
    assert list(evaluation.ours.scores_by_step) == [1, 2, T]
    found = snn.simulate(X).outputs["size"][:, :, 0]
    for step, score in evaluation.ours.scores_by_step.items():
        assert score.value == pytest.approx(float(found[step - 1].max() - found[step - 1].min()))
    assert metric.asked <= 3 * (
        2 + 4 * 3
    )  # of three batches: the networks without time, and four methods at three steps
    assert "spread is what lies between" in exactness_lines(evaluation)
