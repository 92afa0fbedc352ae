"""Populations behind fully connected maps are those of the plain rule, rounded or not; other maps are left alone."""

from __future__ import annotations

import pytest
import torch

from casc_core import CIF, AsTrained, Exact, convert, prepare
from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.connected import connected_population
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.weight_cache import WeightCache

pytestmark = pytest.mark.skipif(not kernels.ready(), reason="there are no compiled kernels")
TRAIN = torch.tensor([[[1, 0]], [[1, 1]], [[-1, 0]]], dtype=torch.int8)


WEIGHT = torch.tensor([[10.0, -7.25], [5.25, 12.0], [-10.0, 10.75]]).double()


def population(weight=WEIGHT, geometry=None, units=None, potential=None, threshold=8.0):
    geometry = Geometry((1, 1)) if geometry is None else geometry
    own = Filter("map", weight[:, :, None, None], -2, geometry, float(weight.abs().sum(1).max()), WeightCache())
    neuron = KernelNeuron.spiking(CIF(), [True] * 3, None)
    drive, thresholds = torch.tensor([[0.5, 0.0, 7.75]]).double(), torch.full((len(weight),), threshold).double()
    return connected_population(own, TRAIN, drive, -2, thresholds, neuron, 0, potential, units)


@pytest.mark.parametrize("potential", [None, torch.tensor([6.25, 1.0, -0.5]).double()])
@pytest.mark.parametrize("units", [None, -1])
def test_its_spikes_are_those_of_the_plain_rule(units, potential):
    """Also on a grid so coarse that every neuron may be near a decision."""
    received = torch.zeros(7, 1, 3).double()
    received[:3] = TRAIN.double() @ WEIGHT.T + torch.tensor([0.5, 0.0, 7.75])
    received[0] += 0.0 if potential is None else potential
    expected = CIF().run(received, [1, 2, 3, 3, 3, 3, 3], 8.0)[0].to(torch.int8)
    found = population(units=units, potential=potential)
    assert expected.any()
    assert torch.equal(found, expected[: len(found)])
    assert not expected[len(found) :].any()


def test_other_maps_are_left_alone():
    assert population(geometry=Geometry((1, 1), stride=(2, 2))) is None
    assert population(weight=torch.full((3, 2), 2.0**30).double()) is None, "beyond int32"
    assert population(units=-1, threshold=2.0) is None, "every neuron is near a decision"


@pytest.mark.parametrize("numerics", [AsTrained(), Exact(16), Exact(4)])
def test_a_perceptron_gives_the_same_with_and_without_the_kernels(numerics):
    torch.manual_seed(0)
    layers = [
        torch.nn.Linear(20, 70),
        torch.nn.ReLU(),
        torch.nn.Linear(70, 40),
        torch.nn.ReLU(),
        torch.nn.Linear(40, 5),
    ]
    model = prepare(torch.nn.Sequential(*layers), q=8).eval()
    snn = convert(model, numerics=numerics)
    x = torch.randn(9, 20)
    fast = snn.simulate(x)
    with kernels.using(None):
        slow = snn.simulate(x)
    assert torch.equal(fast.logits, slow.logits)
    assert torch.equal(fast.logits[-1], snn.reference(x))
    for name, spikes in fast.spikes.items():
        assert torch.equal(spikes.positive, slow.spikes[name].positive)
        assert torch.equal(spikes.negative, slow.spikes[name].negative)
