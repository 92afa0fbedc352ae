"""A detector in spikes over a test set: detections in the image's pixels, and their precision over time."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from detection_recipes.batches import evaluation_batches
from detection_recipes.detections import Detected, Selection, detections
from detection_recipes.evaluation import DetectionMetric, on_image
from detection_recipes.metrics import precision
from detection_recipes.network import Detector, Readouts
from detection_recipes.shapes import drawn_shapes
from detection_recipes.views import letterbox

import casc_core
from casc_core.errors import ConfigError
from casc_lab.distributed import ALL
from casc_lab.evaluation.methods import evaluate


def test_detections_are_brought_back_to_the_image_and_cut_at_its_border() -> None:
    boxes = torch.tensor([[10.0, 20.0, 60.0, 40.0], [-50.0, -9.0, 300.0, 300.0]])
    seen = letterbox((200, 100), (96, 96)).boxes(boxes)
    back = on_image(Detected(seen, torch.tensor([0.9, 0.8]), torch.tensor([0, 1])), (200, 100), (96, 96))
    assert back.boxes.tolist() == [pytest.approx([10.0, 20.0, 60.0, 40.0], abs=1e-3), [0.0, 0.0, 200.0, 100.0]]


def test_figures_are_those_of_the_parts() -> None:
    data = drawn_shapes(1, 3)
    torch.manual_seed(0)
    detector = Detector(3, 0.02, 8)
    detector(torch.randn(2, 3, 48, 48))
    ann = casc_core.prepare(detector, adapter="cnn", q=4).eval()
    snn = casc_core.convert(ann)
    batches = evaluation_batches(data.test, (48, 48), batch_size=2)
    metric = DetectionMetric(data.test, data.classes, (48, 48), 8, Selection(score=0.0))
    found = evaluate(ann, snn, batches, [1, 4, 64], metric)
    assert found.exact
    assert found.exact_at is not None
    assert found.ours.exact_at.shape == found.silent_at.shape == (3,)
    assert found.ours.scores["64"] == found.ours.scores["silent"]
    inputs = torch.cat([batch.inputs[0] for batch in batches(ALL)])
    simulation = snn.simulate(inputs)
    silent = simulation.T
    assert list(found.ours.scores_by_step) == [1, 4, silent]
    for step in (1, 4, silent):
        readouts = Readouts(*(each[step - 1] for each in simulation.outputs))
        here = [on_image(each, (96, 96), (48, 48)) for each in detections(readouts, 8, Selection(score=0.0))]
        expected = precision(here, data.test, 3)
        score = found.ours.scores_by_step[step]
        assert score.value == dataclasses.asdict(expected)
        assert score.figures == (expected.at_50, expected.at_50_95)
        assert [each.boxes.tolist() for each in score.answers] == [each.boxes.tolist() for each in here]
    assert found.end.value == found.reference.value
    assert found.end.differences == found.end.mismatches == 0
    with pytest.raises(ConfigError, match="an evaluation needs steps"):
        evaluate(ann, snn, batches, [], metric)
