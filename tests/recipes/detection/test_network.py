"""The detector: its shapes, its layers as the paper has them, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detection_recipes.detections import Selection, decoded_boxes, detections
from detection_recipes.experiment import NetworkConfig, Schedule, _with_backbone
from detection_recipes.network import Detector, Readouts
from image_recipes.models import build
from safetensors.torch import save_file
from torch import nn

import casc_core
from casc_core.errors import ConfigError, DataError


@pytest.mark.parametrize(("stride", "pools"), [(8, 3), (16, 4), (32, 5)])
def test_layers_are_those_of_the_paper(stride: int, pools: int) -> None:
    with torch.device("meta"):
        detector = Detector(classes=20, stride=stride)
        readouts = detector(torch.zeros(1, 3, 64, 96))
    assert [list(each.shape[1:]) for each in readouts] == [
        [channels, 64 // stride, 96 // stride] for channels in (1, 20, 4)
    ]
    kinds = [type(module) for module in detector.features]
    assert (kinds.count(nn.Conv2d), kinds.count(nn.BatchNorm2d), kinds.count(nn.MaxPool2d)) == (13, 13, pools)
    assert [pool.kernel_size for pool in detector.pyramid.pools] == [5, 9, 13]
    assert detector.neck.conv.in_channels == 4 * detector.neck.conv.out_channels == 2048
    assert (len(detector.class_branch), len(detector.box_branch)) == (2, 4)
    relus = [module for module in detector.modules() if isinstance(module, nn.ReLU)]
    assert len(relus) == 13 + 1 + 2 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "classes must be an integer of at least 1; got 0"),
        ({"classes": 3, "width": 0.0}, r"width must lie in \(0, 16\]; got 0.0"),
        ({"classes": 3, "width": float("nan")}, r"width must lie in \(0, 16\]; got nan"),
        ({"classes": 3, "stride": 4}, "stride must be one of 8, 16, 32; got 4"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Detector(**options)  # type: ignore[arg-type]


def test_the_image_is_of_whole_cells() -> None:
    with pytest.raises(ConfigError, match="multiples of the stride, 16; got 64x40"):
        NetworkConfig(3, (64, 40), 0.1, 16)


def test_in_spikes_every_readout_is_that_of_the_network_with_levels() -> None:
    torch.manual_seed(0)
    detector = Detector(classes=2, width=0.03, stride=8)
    images = torch.randn(2, 3, 32, 48)
    for _ in range(3):
        detector(images)  # statistics of batch norm
    ann = casc_core.prepare(detector.eval(), adapter="cnn", q=4).eval()
    report = casc_core.verify(casc_core.convert(ann), images)
    assert report.exact, str(report)


def test_a_backbone_of_others_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "vgg16_bn.safetensors"
    trained = build("vgg16", 10, stem="imagenet", width=2)
    save_file(trained.state_dict(), file)
    detector = _with_backbone(Detector(2, 2 / 64, 8), file)
    for name, value in detector.features.state_dict().items():
        assert torch.equal(value, trained.state_dict()[f"features.{name}"])
    with pytest.raises(DataError, match="choose the model and the sizes"):
        _with_backbone(Detector(2, 4 / 64, 8), file)
    assert Schedule(8, None, None, weights=file).weights == file  # type: ignore[arg-type]


def test_boxes_are_read_as_centre_and_size() -> None:
    readouts = torch.tensor([0.0, 20.0, torch.tensor(0.5).log(), torch.tensor(2.0).log()]).reshape(1, 4, 1, 1)
    padded = torch.cat([readouts.new_zeros(1, 4, 1, 1), readouts], 3)
    # The second cell's centre is 1.5 strides from the left and, nearly, one from the top; 2 by 8 strides large.
    left, top, right, bottom = decoded_boxes(padded, stride=16)[0, :, 0, 1].tolist()
    assert (left, top, right, bottom) == pytest.approx((24 - 16, 16 - 64, 24 + 16, 16 + 64), abs=1e-4)
    far = decoded_boxes(torch.full((1, 4, 1, 1), 1e30), stride=16)
    assert torch.isfinite(far).all()


def test_detections_are_the_best_of_those_that_overlap() -> None:
    objectness = torch.full((1, 1, 1, 4), -9.0)
    objectness[0, 0, 0, 1:] = torch.tensor([3.0, 2.0, 1.0])
    classes = torch.zeros(1, 2, 1, 4)
    classes[0, 0, 0, 1:3], classes[0, 1, 0, 3] = 9.0, 9.0
    boxes = torch.zeros(1, 4, 1, 4)
    boxes[0, 2:] = 2.0
    (found,) = detections(Readouts(objectness, classes, boxes), 8, Selection(score=0.05))
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([torch.sigmoid(torch.tensor(x)).item() for x in (3.0, 1.0)], abs=1e-3)
    (one,) = detections(Readouts(objectness, classes, boxes), 8, Selection(score=0.05, most=1))
    assert one.labels.tolist() == [0]
    (none,) = detections(Readouts(objectness - 99, classes, boxes), 8, Selection())
    assert len(none) == 0
    assert none.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": 1.5}, "score must lie in 0..1; got 1.5"),
        ({"overlap": -0.1}, "overlap must lie in 0..1; got -0.1"),
        ({"most": 0}, "most must be an integer of at least 1; got 0"),
    ],
)
def test_selections_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**options)  # type: ignore[arg-type]
