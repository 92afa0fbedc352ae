"""The plain loop runs any neuron as its own step says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from casc_core import CIF, Neuron
from casc_core.engine.neuron_loop import scan


def scanned(neuron, currents, caps, threshold):
    population = scan(neuron, currents[0], threshold)
    return torch.stack([population.step(current, cap) for current, cap in zip(currents, caps, strict=True)])


def test_thresholds_broadcast():
    currents = torch.full((3, 2, 4), 0.6, dtype=torch.float64)
    threshold = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    spikes = scanned(CIF(), currents, [1, 2, 3], threshold)
    assert torch.equal(spikes.double(), CIF().run(currents, [1, 2, 3], threshold)[0])
    assert spikes[:, 0].tolist() != spikes[:, 1].tolist()


@dataclass(frozen=True)
class Eager(Neuron):
    """Fires whenever it is not negative."""

    def fire(self, state, cap, threshold):
        return state.v >= 0, None


@dataclass(frozen=True)
class Reluctant(CIF):
    """A subclass of a fused neuron with a fire of its own."""

    def fire(self, state, cap, threshold):
        return state.v >= 2 * threshold, None


@dataclass(frozen=True)
class Tired(Neuron):
    """Rests for a step after each spike: a step of its own, with a memory."""

    def initial(self, current, threshold=1.0, potential=None):
        return super().initial(current, threshold, potential)._replace(memory=current < 0)

    def fire(self, state, cap, threshold):
        return (state.v >= threshold) & ~state.memory, None

    def step(self, state, current, cap, threshold=1.0):
        spikes, state = super().step(state, current, cap, threshold)
        return spikes, state._replace(memory=spikes > 0)


@dataclass(frozen=True)
class Double(Neuron):
    """Two spikes at once, from twice the threshold."""

    peak, rate = 2, 2

    def fire(self, state, cap, threshold):
        return 2 * (state.v >= 2 * threshold) * (state.count + 2 <= self.rate * cap), None


@pytest.mark.parametrize("neuron", [Eager(), Reluctant(), Tired(), Double()])
def test_a_users_neuron_goes_by_its_own_step(neuron):
    currents = torch.tensor([[1.0, -1.0, 1.0], [0.5, 0.5, 1.25], [2.0, 2.5, 2.0]])
    spikes = scanned(neuron, currents, [1, 2, 3], 1.0)
    assert spikes.dtype == torch.int8
    assert torch.equal(spikes.float(), neuron.run(currents, [1, 2, 3], 1.0)[0])
    assert not torch.equal(spikes, scanned(CIF(), currents, [1, 2, 3], 1.0))
