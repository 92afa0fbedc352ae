"""The simulation of a batch from those of its parts."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import casc_core
from casc_core.simulation import Simulation, join_simulations


def network() -> casc_core.SpikingModel:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(4, 6), casc_core.CQReLU(q=4)]
    for _ in range(4):
        layers += [nn.Linear(6, 6), casc_core.CQReLU(q=4)]
    model = nn.Sequential(*layers, nn.Linear(6, 3))
    for parameter in model.parameters():
        parameter.data *= 3
    return casc_core.convert(model)


def test_of_each_part_s_logits_no_more_is_held_than_of_two() -> None:
    snn, x = network(), torch.randn(8, 4)
    held: list[weakref.ref[Tensor]] = []

    def parts() -> Iterator[Simulation]:
        for sample in x.split(1):
            assert sum(each() is not None for each in held) <= 2
            simulation = snn.simulate(sample)
            held.append(weakref.ref(simulation.logits))
            yield simulation
            del simulation

    def join(logits: Iterator[Tensor]) -> Tensor:
        return torch.stack([each[-1, 0].clone() for each in logits])[None]

    found = join_simulations(parts(), join)
    assert torch.equal(found.logits[0], snn(x))
    assert torch.equal(found.silent_at, snn.simulate(x).silent_at)


def test_parts_that_are_silent_earlier_or_later_than_the_first_stay_as_they_were() -> None:
    snn, x = network(), torch.cat([torch.zeros(1, 4), torch.randn(7, 4), torch.zeros(1, 4)])
    whole = snn.simulate(x)
    lengths = [snn.simulate(sample).T for sample in x.split(1)]
    assert lengths[0] < max(lengths)
    snn.memory_limit = 1
    found = snn.simulate(x)
    assert found.T == whole.T == max(lengths)
    assert torch.equal(found.logits, whole.logits)
    assert torch.equal(found.silent_at, whole.silent_at)
    for name, layer in whole.spikes.items():
        assert torch.equal(found.spikes[name].positive.long(), layer.positive.long())
        assert found.spikes[name].neurons == layer.neurons
