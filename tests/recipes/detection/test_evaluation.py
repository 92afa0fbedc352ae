"""A detector in spikes over a test set: detections in the image's pixels, and energy as an analysis counts it."""

from __future__ import annotations

import pytest
import torch
from detection_recipes.batches import evaluation_batches
from detection_recipes.detections import Detected, Selection
from detection_recipes.evaluation import TestImages, evaluate, on_image
from detection_recipes.network import Detector
from detection_recipes.shapes import drawn_shapes
from detection_recipes.views import letterbox

import casc_core
from casc_core.errors import ConfigError
from casc_core.rivals.methods import OURS
from casc_lab.distributed import ALL


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
    test = TestImages(data.test, batches, data.classes, (48, 48), 8, Selection(score=0.0))
    found = evaluate(ann, snn, test, [1, 4, 64])
    assert found.exact
    assert found.exact_at is not None
    ours = found.methods[OURS]
    assert ours.exact_at.shape == ours.silent_at.shape == (3,)
    assert ours.precision["64"] == ours.precision["silent"] == found.reference
    assert [len(each) for each in ours.found["silent"]] == [len(each) for each in ours.found["64"]]
    inputs = torch.cat([batch.inputs[0] for batch in batches(ALL)])
    analysis = casc_core.analyse(snn, [inputs])
    energy = analysis.energy() / 1e3
    assert ours.energy["silent"] == pytest.approx(float(energy[-1]), abs=1e-3)
    assert ours.energy["1"] == pytest.approx(float(energy[0]), abs=1e-3)
    assert found.ann_energy == pytest.approx(analysis.ann_energy() / 1e3, abs=1e-3)
    with pytest.raises(ConfigError, match="an evaluation needs steps"):
        evaluate(ann, snn, test, [])
