"""Networks with a threshold for each channel: every population but the first reads spikes, whatever lies between."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED
from torch import nn
from user_cnns import cnn, conv, settled

import casc_core
from casc_core import AsTrained, Exact
from casc_core.engine import kernels
from casc_core.engine.ops.population import Fire
from casc_core.engine.products import spiking_population
from casc_core.engine.products.level_population import LevelPopulation
from casc_core.engine.products.spiking_population import SpikingPopulation

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def padded_shortcut(self, x):
    """As the ResNets of 32 pixels: every second entry, and channels of zeros."""
    x = torch.relu(self.a(x))
    x = torch.relu(self.c(torch.relu(self.b(x))) + x)
    short = F.pad(x[:, :, ::2, ::2], [0, 0, 0, 0, 1, 1])
    return self.fc(torch.relu(self.e(torch.relu(self.d(x))) + short).mean((2, 3)))


def pooled_shortcut(self, x):
    """An average before the shortcut's convolution."""
    x = torch.relu(self.a(x))
    x = torch.relu(self.e(torch.relu(self.d(x))) + self.f(F.avg_pool2d(x, 2)))
    return self.fc(x.mean((2, 3)))


def joined(self, x):
    """Signals of several thresholds behind one another, as in Inception or a U-Net."""
    x = torch.relu(self.a(x))
    y = torch.cat([torch.relu(self.b(x)), F.max_pool2d(torch.relu(self.c(x)), 3, 1, 1)], 1)
    low = F.interpolate(torch.relu(self.h(F.avg_pool2d(y, 2))), scale_factor=2)
    return self.fc(torch.relu(self.g(torch.cat([x, low, y], 1))).mean((2, 3)))


def summed(self, x):
    """A sum of what two populations give, read by a convolution, as in the bottlenecks of detectors."""
    x = torch.relu(self.a(x))
    x = x + torch.relu(self.c(torch.relu(self.b(x))))
    return self.fc(torch.relu(self.e(torch.relu(self.d(x)))).mean((2, 3)))


def before_activation(self, x):
    """Batch norm and activation in front of each convolution, sums of currents between."""
    x = self.a(x)
    x = x + self.b(torch.relu(self.n(x)))
    x = x + self.c(torch.relu(self.o(x)))
    return self.fc(torch.relu(self.e(torch.relu(self.d(torch.relu(x))))).mean((2, 3)))


def depthwise(self, x):
    """More channels that have weights of their own than one block of outputs holds."""
    return self.fc(torch.relu(self.m(torch.relu(self.l(torch.relu(self.k(x)))))).mean((2, 3))[:, :8])


FORWARDS = {
    each.__name__: each for each in (padded_shortcut, pooled_shortcut, joined, summed, before_activation, depthwise)
}


def network(name):
    torch.manual_seed(3)
    model = settled(
        cnn(
            FORWARDS[name],
            **{letter: conv(3 if letter == "a" else 6, 6) for letter in "abc"},
            d=conv(6, 8, stride=2),
            e=conv(8, 8),
            f=conv(6, 8, 1, 0),
            h=conv(12, 4),
            g=conv(22, 8),
            n=nn.BatchNorm2d(6),
            o=nn.BatchNorm2d(6),
            k=conv(3, 40),
            l=nn.Conv2d(40, 40, 3, 1, 1, groups=40),
            m=conv(40, 40, 1, 0),
            fc=nn.Linear(8, 3),
        )
    )
    x = torch.rand(4, 3, 8, 8)
    return casc_core.calibrate(model, [(x,)], q=4, steps=("thresholds",), per_channel=True).model.eval(), x


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("numerics", [AsTrained(), Exact(16)])
def test_populations_read_spikes(name, numerics):
    model, x = network(name)
    snn = casc_core.convert(model, numerics=numerics)
    taken = []
    spikes = SpikingPopulation.spikes

    def noted(self, *arguments, **named):
        fired = spikes(self, *arguments, **named)
        taken.append(fired is not None)
        return fired

    with patch.object(SpikingPopulation, "spikes", noted):
        logits = snn(x)
    assert taken == [True] * (len(snn.layers) - 1)
    assert torch.equal(snn.reference(x), logits)
    for instructions in (*COMPILED, None):
        with kernels.using(instructions):
            assert torch.equal(snn(x), logits)
            with patch.object(spiking_population, "_WORTH_A_LOOK", 0):  # tiles, wherever enough spikes
                assert torch.equal(snn(x), logits)
    with patch.object(SpikingPopulation, "spikes", lambda *_, **__: None):
        simulation = snn.simulate(x)
    assert torch.equal(simulation.logits[-1], logits)
    again = [snn.simulate(x)]
    with kernels.using(None):  # what is multiplied by factors is written down
        again.append(snn.simulate(x))
    for other in again:
        assert torch.equal(other.logits, simulation.logits)
        for layer, spikes in other.spikes.items():
            assert torch.equal(spikes.positive, simulation.spikes[layer].positive)
            assert torch.equal(spikes.operations, simulation.spikes[layer].operations)


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("numerics", [AsTrained(), Exact(16)])
def test_levels_are_summed_densely(name, numerics):
    model, x = network(name)
    snn = casc_core.convert(model, numerics=numerics)
    calls = []
    levels = LevelPopulation.levels

    def noted(self, *arguments):
        calls.append(self)
        return levels(self, *arguments)

    with patch.object(LevelPopulation, "levels", noted):
        logits, counts = snn.reference_counts((x,), {})
    assert len(calls) == len(snn.layers) - 1
    for instructions in (*COMPILED, None):
        with kernels.using(instructions):
            for batch in (x, x[1:], x):
                found, other = snn.reference_counts((batch,), {})
                assert torch.equal(found, logits[-len(batch) :])
                assert all(torch.equal(other[layer], counts[layer][-len(batch) :]) for layer in counts)


@pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
@pytest.mark.parametrize("numerics", [AsTrained(), Exact(16)])
def test_populations_are_prepared_once(numerics):
    """Whatever the batch; and again for other neurons, or where a run is cut."""
    model, x = network("summed")
    snn = casc_core.convert(model, numerics=numerics)
    asked = []

    def noting(prepare):
        def noted(self, *arguments):
            asked.append(self.settings["name"])
            return prepare(self, *arguments)

        return noted

    def prepared_by(call, x):
        asked.clear()
        call(x)
        return set(asked)

    changes = {name: noting(getattr(Fire, name)) for name in ("_prepared", "_driven")}
    with patch.multiple(Fire, **changes):
        for call in (snn, snn.reference, lambda x: snn.simulate(x, T=3), snn.under(casc_core.IF())):
            assert prepared_by(call, x) == set(snn.layers)
            assert not prepared_by(call, x)
            assert not prepared_by(call, torch.cat([x, x]))
        assert prepared_by(snn, 4 * x) == {snn.layers[0]}, "inputs of another size"


def test_levels_of_a_population_that_has_changed():
    model, x = network("summed")
    snn = casc_core.convert(model)
    before = snn.reference(x)
    assert torch.equal(snn(x), before)
    population = [op for op in snn.operations() if op.is_layer][2]
    own = population.settings["threshold"] if population.thresholds is None else float(population.thresholds.max())
    population.change("bias", torch.full((6, 1, 1), own / 4, dtype=torch.float64))
    after = snn.reference(x)
    assert not torch.equal(after, before)
    assert torch.equal(snn(x), after)
    with kernels.using(None):
        assert torch.equal(snn.reference(x), after)


def test_a_real_valued_input_beside_levels():
    """What a population begins with then differs by position, and by sample."""

    def forward(self, x):
        return self.fc(torch.relu(self.b(torch.relu(self.a(x))) + self.c(x)).mean((2, 3)))

    torch.manual_seed(4)
    model = settled(cnn(forward, a=conv(3, 6), b=conv(6, 8), c=conv(3, 8), fc=nn.Linear(8, 3)))
    x = torch.rand(4, 3, 8, 8)
    model = casc_core.calibrate(model, [(x,)], q=4, steps=("thresholds",), per_channel=True).model.eval()
    snn = casc_core.convert(model)
    for batch in (x, x.flip(0), 3 * x[:1]):
        logits = snn.reference(batch)
        assert torch.equal(snn(batch), logits)
        with kernels.using(None):
            assert torch.equal(snn.reference(batch), logits)
