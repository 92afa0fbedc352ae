"""The second pass, held against torch's own fusion of convolution and normalisation, and against the forward itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from casc_core import CQReLU, Exact, calibrate, convert, verify
from casc_core.conversion.graph import (
    Applied,
    ConvolutionMap,
    Factor,
    LinearMap,
    MapNode,
    Maximum,
    Normalisation,
    NormalisedDrive,
    Offset,
    Population,
    TableLookup,
)
from casc_core.conversion.passes import fold


def settled(norm, seed=0):
    """A normalisation with statistics and factors of its own."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.copy_(torch.randn(len(tensor), generator=generator))
    norm.running_var.copy_(torch.rand(len(norm.running_var), generator=generator) + 0.5)
    return norm.eval()


def kinds(graph, *wanted):
    return [node for node in graph.nodes if isinstance(node, wanted)]


@pytest.mark.parametrize(
    ("layer", "norm", "fused"),
    [
        (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), fuse_conv_bn_eval),
        (nn.Conv1d(4, 6, 3, groups=2, bias=False), nn.BatchNorm1d(6), fuse_conv_bn_eval),
        (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), fuse_conv_bn_eval),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), fuse_linear_bn_eval),
    ],
)
def test_a_map_takes_in_what_normalises_its_outputs(read, layer, norm, fused):
    model = nn.Sequential(layer, settled(norm), CQReLU(4)).eval()
    if isinstance(layer, nn.Linear):  # it may normalise another dimension than the last one, for all that is known
        assert len(kinds(fold(read(model)), Normalisation)) == 1
        return
    (found,) = kinds(graph := fold(read(model)), MapNode)
    assert not kinds(graph, Normalisation)
    wanted = fused(layer.double().eval(), norm.double())
    torch.testing.assert_close(found.weight, wanted.weight.data.reshape(found.weight.shape), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.bias, wanted.bias.data, rtol=1e-12, atol=1e-12)


def test_factors_offsets_and_normalisations_in_a_row_are_one_map(read):
    class Row(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(3, 5, 1), settled(nn.BatchNorm2d(5)), CQReLU(4)

        def forward(self, x):
            return self.act(((self.norm(self.conv(x) * 3) - 0.5) / 7) * torch.arange(5.0).reshape(5, 1, 1))

        def before(self, x):
            return ((self.norm(self.conv(x) * 3) - 0.5) / 7) * torch.arange(5.0).reshape(5, 1, 1).double()

    model = Row().eval()
    (found,) = kinds(fold(read(model)), MapNode)
    x = torch.randn(2, 3, 4, 4).double()
    with torch.no_grad():
        wanted = model.double().before(x)
    torch.testing.assert_close(F.conv2d(x, found.weight, found.bias), wanted, rtol=1e-12, atol=1e-12)


def test_a_normalisation_behind_neurons_goes_into_the_next_convolution_and_its_offset_into_the_drive(read):
    norm, conv = settled(nn.BatchNorm2d(3)), nn.Conv2d(3, 5, 3, padding=1)
    model = nn.Sequential(CQReLU(4), norm, conv, CQReLU(4))
    graph = fold(read(model))
    (found,) = kinds(graph, ConvolutionMap)
    assert not kinds(graph, Normalisation)
    assert isinstance(found.x, NormalisedDrive)
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).double()
    torch.testing.assert_close(found.spiking, conv.weight.double() * factor.reshape(1, 3, 1, 1))
    assert torch.equal(found.weight, conv.weight.double())
    torch.testing.assert_close(found.x.shift, norm.bias.double() - factor * norm.running_mean.double())


def test_a_linear_map_takes_in_a_normalisation_of_features(read):
    norm, layer = settled(nn.BatchNorm1d(6)), nn.Linear(6, 3)
    (found,) = kinds(fold(read(nn.Sequential(CQReLU(4), norm, layer))), LinearMap)
    x = torch.rand(7, 6).double()
    with torch.no_grad():
        wanted = layer.double()(norm.double()(x))
    torch.testing.assert_close(F.linear(x - found.centre, found.weight, found.bias), wanted, rtol=1e-6, atol=1e-6)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.act = nn.Embedding(11, 4), CQReLU(4)
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 6, bias=False)

    def forward(self, tokens):
        return (
            self.act(self.two(self.one(self.table(tokens)) / 3)) + self.act(self.one(self.table(tokens)).sum(1))[:, :1]
        )


def test_linear_maps_of_a_table_are_a_table(read):
    graph = fold(read(Words()))
    found = kinds(graph, TableLookup)
    assert [[each.name for each in lookup.maps] for lookup in found] == [["one", "two"], ["one"]]
    assert [[str(each.scale) for each in lookup.maps] for lookup in found] == [["1", "1/3"], ["1"]]
    assert not kinds(graph, LinearMap)


def test_a_maximum_is_taken_before_an_increasing_normalisation(read):
    norm = settled(nn.BatchNorm2d(3))
    norm.weight.data.abs_()
    model = nn.Sequential(CQReLU(4), norm, nn.MaxPool2d(2), CQReLU(4))
    (found,) = kinds(fold(read(model)), Normalisation)
    assert isinstance(found.x, Maximum)
    assert isinstance(found.x.x, Population)
    norm.weight.data.neg_()
    (pool,) = kinds(fold(read(model)), Maximum)
    assert isinstance(pool.x, Normalisation)
    assert isinstance(pool.x.x, Population)


@pytest.mark.parametrize(("threshold", "divides"), [([0.3, 0.7], True), ([0.5, 0.75], False)])
def test_thresholds_of_each_channel_may_go_into_the_map_before_unless_they_are_short(read, threshold, divides):
    layer = nn.Conv1d(3, 2, 1)
    graph = fold(read(nn.Sequential(layer, CQReLU(4, torch.tensor(threshold)), nn.Conv1d(2, 2, 1))))
    (found,) = kinds(graph, Population)
    assert (found.divided is not None) == divides
    if found.divided is not None:
        by = found.threshold.reshape(-1, 1, 1, 1)
        torch.testing.assert_close(
            found.divided.weight * by, layer.weight.double().unsqueeze(2), rtol=1e-12, atol=1e-12
        )


def test_a_row_of_any_length_is_one_map(read):
    """Of more factors and addends than Python calls functions within each other."""

    class Long(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(2, 3, 1, bias=False), settled(nn.BatchNorm2d(3)), CQReLU(4)

        def forward(self, x):
            x = self.conv(x)
            for _ in range(1200):
                x = x * 2 * 0.5
            for _ in range(1200):
                x = x + 0.25
            return self.act(self.norm(x))

    model = Long()
    graph = fold(read(model))
    (found,) = kinds(graph, MapNode)
    assert not kinds(graph, Factor, Normalisation, Offset)
    with torch.no_grad():
        wanted = model.double().norm(torch.full((1, 3, 1, 1), 300.0).double()).flatten()
    torch.testing.assert_close(found.bias, wanted, rtol=1e-6, atol=1e-6)


def test_what_nothing_reads_is_dropped(read):
    class Unread(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 5), nn.Linear(5, 6), CQReLU(4)

        def forward(self, x):
            x = self.act(self.a(x))
            self.b(x)
            return x * 2

    graph = read(Unread())
    assert [node.name for node in kinds(graph, LinearMap)] == ["a", "b"]
    folded = fold(graph)
    assert [node.name for node in kinds(folded, LinearMap)] == ["a"]
    assert isinstance(folded.outputs[0], Factor)
    assert folded.layers == graph.layers == ("act",)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Identity(), nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2))]
)
def test_thresholds_of_channels_go_into_the_map_behind_their_flattening(read, pool):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 2, 10, 10, generator=generator)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), pool, nn.Flatten(), nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, 3)
    )
    model(inputs)
    calibrated = calibrate(model, [inputs], q=8).model
    graph = fold(read(calibrated))
    first = next(node for node in graph.nodes if isinstance(node, LinearMap))
    assert isinstance(first.x, Applied)
    assert not kinds(graph, Factor)
    assert all(isinstance(node.x, LinearMap) for node in kinds(graph, Normalisation))  # none of what spikes
    snn = convert(calibrated, numerics=Exact(weight_bits=16))
    assert torch.equal(snn(inputs), snn.reference(inputs))
    assert verify(snn, inputs[:4]).exact
