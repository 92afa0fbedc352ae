"""Networks with several outputs in the shapes of published detectors and others: exact at the default settings."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from detectors import IMAGE_NETWORKS, Estimate, GoogLeNetOutputs, Regression, TwoTopics
from torch import nn
from user_cnns import settled

import casc_core
from casc_core import CQReLU

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def checked(model, x, q=4):
    """Exact, by verify; what it returns, beside what the prepared network does."""
    ann = casc_core.prepare(settled(model), q=q).eval()
    snn = casc_core.convert(ann)
    report = casc_core.verify(snn, x)
    assert report.exact, str(report)
    assert all(output.equal for output in report.outputs.values())
    with torch.no_grad():
        return snn(x), ann(x)


def alike(found, expected) -> None:
    """The same structure, and nearly the same numbers: a tie apart, float32 rounds them."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape
        far = (found - expected).abs() > 1e-4 * (1 + expected.abs())
        assert float(far.double().mean()) < 0.05
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            alike(found[key], expected[key])
    elif isinstance(expected, (tuple, list)):
        for one, other in zip(found, expected, strict=True):
            alike(one, other)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_networks_of_images(name):
    torch.manual_seed(0)
    alike(*checked(IMAGE_NETWORKS[name](), IMAGES))


def test_a_network_without_an_auxiliary_head_gives_none():
    torch.manual_seed(0)
    found, _ = checked(IMAGE_NETWORKS["GoogLeNet without one of its heads"](), IMAGES)
    assert isinstance(found, GoogLeNetOutputs)
    assert found.aux_logits2 is None


def test_a_regression_with_two_heads():
    torch.manual_seed(0)
    found, expected = checked(Regression(), torch.randn(7, 5, generator=torch.Generator().manual_seed(2)), q=8)
    assert isinstance(found, Estimate)
    alike(found.mean, expected.mean)
    alike(found.log_variance, expected.log_variance)


def test_a_text_classifier_with_two_heads():
    torch.manual_seed(0)
    tokens = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(0))
    found, expected = checked(TwoTopics(), tokens)
    alike(found, expected)
    assert found["tags"].shape == (3, 7, 3)


def test_maps_of_a_segmentation_are_in_their_dict():
    torch.manual_seed(0)
    found, _ = checked(IMAGE_NETWORKS["U-Net"](), IMAGES)
    assert isinstance(found, OrderedDict)
    assert [list(each.shape) for each in found.values()] == [[2, 3, 16, 16], [2, 3, 8, 8]]


class Pyramid(nn.Module):
    """Maps in a row, two of which are outputs that neurons read as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.act = nn.Conv2d(3, 6, 3, padding=1), CQReLU(4)
        self.lateral, self.level, self.act2 = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1), CQReLU(4)
        self.tower, self.scores = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 2, 3, padding=1)
        self.level.weight.data *= 20  # far beyond what its neurons can tell apart

    def forward(self, x):
        lateral = self.lateral(self.act(self.stem(x)))
        level = self.level(lateral)
        return {"lateral": lateral, "level": level, "scores": self.scores(self.tower(self.act2(level)))}


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
def test_an_output_between_maps_in_a_row_is_read_out_as_it_is(numerics):
    x = IMAGES[:, :, :7, :7]
    snn = casc_core.convert(Pyramid(), numerics=numerics)
    report = casc_core.verify(snn, x)
    assert report.exact, str(report)
    simulation, reference = snn.simulate(x).outputs, snn.reference(x)
    for name, expected in reference.items():
        assert torch.equal(simulation[name][-1], expected)
        assert torch.equal(snn(x)[name], expected)
