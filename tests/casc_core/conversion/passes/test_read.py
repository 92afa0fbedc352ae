"""The first pass: a model is read in its own numbers, and refused before anything is computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import casc_core
from casc_core import CQReLU
from casc_core.conversion.graph import ConvolutionMap, LinearMap, MapNode, Normalisation, Population


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), CQReLU(4)
        self.other, self.fc, self.inner = nn.BatchNorm2d(4), nn.Linear(5, 2), forward

    def forward(self, x):
        return self.inner(self, x)


def plain(s, x):
    return s.fc(s.act(s.norm(s.conv(x) * 0.5)).mean((2, 3)))


def test_numbers_are_the_users_own(read):
    model = Net(plain)
    nodes = read(model).nodes
    (conv,) = (node for node in nodes if isinstance(node, ConvolutionMap))
    (linear,) = (node for node in nodes if isinstance(node, LinearMap))
    assert torch.equal(conv.weight, model.conv.weight.double())
    assert torch.equal(conv.bias, model.conv.bias.double())
    assert torch.equal(linear.weight, model.fc.weight.double())
    assert [node.name for node in nodes if isinstance(node, Population)] == ["act"]


def test_a_graph_can_be_printed(read):
    said = str(read(Net(plain)))
    lines = [line.partition(" = ")[2] for line in said.splitlines()]
    assert lines == [
        "Argument 'x'",
        "Encoded of %0",
        "ConvolutionMap 'conv' [5, 3, 3, 3], biased of %1",
        "Factor 1/2 of %2",
        "Normalisation [5] along 1 of %3",
        "Population 'act' of %4",
        "Applied Sum of %5",
        "LinearMap 'fc' [2, 5], biased of %6",
        "",
    ]
    assert said.endswith("output: %7")


def test_a_preparation_computes_no_weight(monkeypatch):
    def never(*args):
        raise AssertionError("a weight was computed")

    for kind, method in ((MapNode, "affine"), (MapNode, "times"), (Normalisation, "folded")):
        monkeypatch.setattr(kind, method, never)
    for kind in (ConvolutionMap, LinearMap):
        monkeypatch.setattr(kind, "absorb", never)
        monkeypatch.setattr(kind, "snap", never)
    model = Net(lambda s, x: s.fc(F.relu(s.norm(s.conv(x) * 0.5)).mean((2, 3))))
    model.act = nn.ReLU()
    prepared = casc_core.prepare(model, "cnn", q=4)
    with pytest.raises(casc_core.ConversionError, match="a weight was computed"):
        casc_core.convert(prepared, "cnn")


class Looked(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.table, self.one, self.two = nn.Embedding(7, 3), nn.Linear(3, 4), nn.Linear(5, 2)
        self.large, self.inner = nn.Parameter(torch.tensor(2.0**127)), forward

    def forward(self, x):
        return self.inner(self, x)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda s, x: torch.relu(s.two(s.one(s.table(x)) / 3)), "it is for 5 features, and what it reads has 4"),
        (lambda s, x: torch.relu(F.linear(x, s.two.weight, s.one.bias)), "Linear: 'bias' must be"),
        (lambda s, x: torch.relu(F.linear(x, s.two.weight * s.large * s.large)), "holds a number that is not finite"),
        (lambda s, x: torch.relu(F.conv1d(x, s.two.weight.unsqueeze(-1), dilation=2**20)), "Convolution: 'dilation'"),
        (lambda s, x: torch.relu(F.conv1d(x, s.one.weight.unsqueeze(-1), groups=3)), "its groups must divide"),
    ],
)
def test_a_map_that_cannot_be_is_refused_by_a_preparation(forward, message):
    with pytest.raises(casc_core.ConversionError, match=message) as refused:
        casc_core.prepare(Looked(forward), "cnn", q=4)
    assert "test_read.py:" in str(refused.value)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda s, x: s.fc(s.act(s.other(s.conv(x))).mean((2, 3))), "it is for 4 channels, and what it reads has 5"),
        (lambda s, x: s.fc(s.act(s.other(s.conv(x) * 2 + 1)).mean((2, 3))), "it is for 4 channels"),
        (lambda s, x: s.fc(s.act(s.conv(x) * torch.ones(4, 1, 1)).mean((2, 3))), "it is for 4 channels"),
        (lambda s, x: s.fc(s.act(s.conv(x) + torch.ones(4, 1, 1)).mean((2, 3))), "it is for 4 channels"),
        (
            lambda s, x: s.fc(s.act(s.conv(x)).mean((2, 3)).masked_fill(x[:, 0, 0, :1] > 0, -1e9)),
            "only a maximum may read",
        ),
    ],
)
def test_what_can_never_fit_is_refused_by_a_preparation_with_the_users_line(forward, message):
    model = Net(forward)
    model.act = nn.ReLU()
    with pytest.raises(casc_core.ConversionError, match=message) as refused:
        casc_core.prepare(model, "cnn", q=4)
    assert "test_read.py:" in str(refused.value)


def test_a_threshold_for_other_channels_is_refused_by_a_preparation():
    model = Net(plain)
    model.act = CQReLU(4, torch.ones(3) * 0.7)
    with pytest.raises(casc_core.ConversionError, match="it is for 3 channels, and what it reads has 5"):
        casc_core.prepare(model, "cnn", q=4)
