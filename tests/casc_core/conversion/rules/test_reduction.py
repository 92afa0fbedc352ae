"""Maxima and minima of two tensors: the network's own answer, bit for bit."""

from __future__ import annotations

import pytest
import torch
from dyadic import IMAGES, agrees, network
from named_forwards import Forwards
from torch import nn

import casc_core

CASES = Forwards(IMAGES)
case = CASES.add


def conv(inputs=3, outputs=4):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@case(a=conv(), b=conv(), c=conv(4), act=nn.ReLU())
def of_currents(self, x):
    """Maxout."""
    return self.act(self.c(torch.maximum(self.a(x), self.b(x)))).sum((2, 3))


@case(a=conv(), b=conv(), c=conv(4), act=nn.ReLU())
def of_spikes_in_every_spelling(self, x):
    a, b = self.act(self.a(x)), self.act(self.b(x))
    larger = torch.max(a, b) + a.max(b) + torch.fmax(a, b) + a.maximum(other=b)
    smaller = torch.min(a, other=b) + a.fmin(b) + torch.minimum(a, b) + a.minimum(b)
    return self.act(self.c(larger - smaller)).sum((2, 3))


@case(a=conv(), c=conv(4), act=nn.ReLU())
def that_broadcast(self, x):
    a = self.act(self.a(x))
    y = torch.maximum(a, a.amax((2, 3), keepdim=True) - 0.5) + a[0, 0].minimum(a)
    return self.act(self.c(y)).sum((2, 3))


@case(a=conv(), c=conv(4), act=nn.ReLU(), least=torch.tensor([[[0.25]], [[0.5]], [[-1.0]], [[0.0]]]))
def with_parameters_and_numbers(self, x):
    y = torch.maximum(self.a(x), self.least) + self.a(x).minimum(torch.tensor(1.5))
    return self.act(self.c(y)).sum((2, 3))


@case(a=conv(), c=conv(), act=nn.ReLU())
def with_the_inputs(self, x):
    return self.act(self.c(torch.maximum(self.act(self.a(x))[:, 1:], x))).sum((2, 3))


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_networks_own_answer(name, tmp_path):
    forward, inputs, held = CASES[name]
    agrees(network(forward, **held), *inputs, folder=tmp_path)


def test_a_constant_beside_the_spikes_leaves_the_samples_apart():
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(3, 4), casc_core.CQReLU(4), casc_core.CQReLU(4)
            self.register_buffer("most", torch.full((4,), 0.4))

        def forward(self, x):
            return self.last(torch.minimum(self.act(self.first(x)), self.most) * 1.7)

    torch.manual_seed(0)
    snn, x = casc_core.convert(Bounded().eval()), torch.randn(16, 3)
    alone = [int(snn.simulate(each).silent_at) for each in x.split(1)]
    assert snn.simulate(x).silent_at.tolist() == alone
    assert len(set(alone)) > 1
