"""The fused scan equals the neuron's pure step, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casc_core import CIF, IF, Neuron
from casc_core.engine.neuron_loop import scan


def scanned(neuron, currents, caps, threshold):
    population = scan(neuron, currents[0], threshold)
    return torch.stack([population.step(current, cap) for current, cap in zip(currents, caps, strict=True)])


@given(
    seed=st.integers(0, 2**31),
    neuron=st.sampled_from((IF(), CIF())),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    wake=st.integers(1, 9),
    own_thresholds=st.booleans(),
    shape=st.sampled_from(((1,), (5,), (2, 3), (2, 1, 4))),
)
def test_fused_equals_pure(seed, neuron, dtype, wake, own_thresholds, shape):
    generator = torch.Generator().manual_seed(seed)
    currents = torch.randn(12, *shape, generator=generator, dtype=dtype)
    threshold = torch.rand(shape, generator=generator, dtype=dtype) + 0.1 if own_thresholds else 0.75
    caps = [min(t + 1, wake) for t in range(12)]
    kept = currents.clone()
    spikes = scanned(neuron, currents, caps, threshold)
    assert spikes.dtype == torch.int8
    assert torch.equal(spikes.to(dtype), neuron.run(currents, caps, threshold)[0])
    assert torch.equal(currents, kept)


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


@pytest.mark.parametrize("neuron", [Eager(), Reluctant()])
def test_a_users_neuron_goes_by_its_own_step(neuron):
    currents = torch.tensor([[1.0, -1.0], [0.5, 0.5], [1.0, 1.0]])
    spikes = scanned(neuron, currents, [9, 9, 9], 1.0)
    assert spikes.dtype == torch.int8
    assert torch.equal(spikes.float(), neuron.run(currents, [9, 9, 9], 1.0)[0])
    assert not torch.equal(spikes, scanned(CIF(), currents, [9, 9, 9], 1.0))
