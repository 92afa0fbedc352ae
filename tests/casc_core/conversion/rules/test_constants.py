"""Constants as factors, addends, matrices and masks, in every shape and spelling: the network's own answer, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dyadic import IMAGES, ROWS, SERIES, agrees, dyadic, network
from hypothesis import given, settings
from hypothesis import strategies as st
from named_forwards import Forwards
from torch import nn

import casc_core
from casc_core import ConversionError, InputError

CASES = Forwards(IMAGES)
case = CASES.add


def conv(inputs=3, outputs=4, kernel=3, padding=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, **options)


# Factors.


@case(a=conv(), b=conv(4), act=nn.ReLU(), one=torch.tensor([0.75]), scalar=torch.tensor(-0.5))
def learned_scalars(self, x):
    x = self.act(self.one * self.a(x))
    x = self.act(self.b(x * self.scalar + 1) * self.one)
    return x.sum((2, 3)) * self.one / torch.tensor([2.0])


@case(
    a=conv(), b=conv(4), act=nn.ReLU(), g=dyadic(4, 1, 1, seed=7), v=dyadic(4),
    h=torch.tensor([0.5, -1.0, 2.0, -0.25]).view(1, 4, 1, 1),
)  # fmt: skip
def layer_scale(self, x):
    x = self.act(self.a(x) * self.g)
    x = x + self.act(self.h * self.b(x * self.h))
    return torch.mul(x.sum((2, 3)), self.v)


@case(a=conv(bias=False), b=conv(4), act=nn.ReLU(), g=dyadic(4), m=dyadic(4, seed=1))
def frozen_batch_norm(self, x):
    scale, shift = self.g.view(1, -1, 1, 1), self.m.reshape(1, -1, 1, 1)
    x = self.act(self.a(x) * scale + shift)
    return (self.act(self.b(x * scale + shift)) * scale).sum((2, 3))


@case(a=conv(), b=conv(4), act=nn.ReLU(), g=torch.tensor([0.0, 0.5, 0.0, -1.0]).view(1, 4, 1, 1))
def pruned_channels(self, x):
    x = self.act(self.a(x))
    return (self.act(self.b(x * self.g)) * self.g).sum((2, 3))


@case(a=conv(), b=conv(4), act=nn.ReLU(), g=torch.tensor(0.0), h=torch.zeros(1), z=torch.zeros(1, 1, 1))
def factors_that_begin_at_zero(self, x):
    x = self.act(self.a(x)) + self.act(F.max_pool2d(self.a(x) * self.z, 3, 1, 1) + 0.25)
    return (x + self.g * self.b(x) + x * self.h + self.act(self.b(x) * 0.0 + 1)).sum((2, 3))


@case(a=conv(), b=conv(4), act=nn.ReLU(), full=dyadic(4, 6, 6), wide=dyadic(1, 1, 1, 6), high=dyadic(6, 1), k=dyadic(6))
def factors_by_position(self, x):
    x = self.act(self.a(x) * self.full)
    x = self.act(self.b(x * self.full + self.wide) + self.high)
    return (x * self.wide / 4 - self.high * x + self.k).sum((2, 3))


@case(a=conv(), b=conv(4), act=nn.ReLU(), mean=dyadic(3, 1, 1), std=torch.tensor([0.5, 2.0, 1.0]).view(1, 3, 1, 1))
def input_normalisation(self, x):
    x = self.act(self.a((x - self.mean) / self.std))
    return self.b(x).sum((2, 3))


@case(a=conv(), b=conv(4), act=nn.ReLU(), d=torch.tensor([0.5, 4.0, 0.25, 2.0]).view(-1, 1, 1))
def divided_by_channel(self, x):
    x = self.act(self.a(x).div(self.d))
    return self.act(torch.div(self.b(x / self.d), self.d)).sum((2, 3)).true_divide(8)


@case(a=conv(), act=nn.ReLU(), three=torch.tensor([3.0, 9.0, 6.0, 1.0]).view(-1, 1, 1), q=torch.tensor([0.75]))
def quotients_that_are_no_binary_fractions_meet_thresholds_exactly(self, x):
    x = self.act(self.a(x))
    x = self.act((x * 9 / self.three + x / self.three).sum(1, keepdim=True) + 0.5)
    return self.act(F.avg_pool2d(x, 3, 1) * 3 / self.q * self.q).sum((2, 3)) * 8


@case(a=conv(), b=conv(4), act=nn.ReLU(), s=torch.tensor([0.0, 1.0, -1.0, 0.0]).view(1, -1, 1, 1))
def computed_from_parameters_alone(self, x):
    x = self.act(self.a(x) * torch.exp(self.s * 0) + (self.s * 2).abs())
    return self.act(self.b(x) * self.s.expand(1, 4, 1, 1).cumsum(1)).sum((2, 3))


@case(
    ROWS, a=nn.Linear(5, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3), act=nn.ReLU(), g=dyadic(6, seed=4),
    h=dyadic(1, 6, seed=6), pos=dyadic(1, 3, 6),
)  # fmt: skip
def rows_and_tokens(self, x):
    x = self.act(self.a(x) * self.g)
    x = self.act(self.b(x * self.g) + self.h)
    x = x.unsqueeze(1).repeat(1, 3, 1) + self.pos
    return self.c(self.act(self.b(x * self.h) * self.pos)).sum(1)


@case(
    SERIES, a=nn.Conv1d(3, 4, 3), n=nn.BatchNorm1d(4), b=nn.Conv1d(4, 4, 3, groups=2), act=nn.ReLU(), g=dyadic(4, 1),
    h=dyadic(1, 4, 1, seed=1),
)  # fmt: skip
def one_dimension(self, x):
    x = self.act(self.n(self.a(x)) * self.g)
    return self.act(self.n(self.b(x * self.h + self.g)) - self.h).sum(2)


@case(a=conv(), n=nn.BatchNorm2d(4), m=nn.BatchNorm2d(4), b=conv(4), act=nn.ReLU(), g=dyadic(4, 1, 1), k=dyadic(1))
def normalisation_and_factors_in_turn(self, x):
    x = self.act(self.n(self.a(x)) * self.g + self.k)
    x = self.act(self.b(self.m(self.n(x) * self.g) * self.k))
    return (self.m(x * self.g) + self.g).sum((2, 3))


@case(a=conv(), act=nn.ReLU(), g=dyadic(4, 1, 1).abs() + 1, w=dyadic(6).abs())
def maxima_of_what_is_scaled(self, x):
    x = self.act(self.a(x)) * self.g
    y = F.max_pool2d(x, 2) + F.adaptive_max_pool2d(x * -1, 3)
    return self.act(y).sum((2, 3)) + F.max_pool2d(x * self.w, 3).sum((2, 3))


# Sums and differences.


@case(a=conv(), b=conv(4), act=nn.ReLU(), g=dyadic(4, 1, 1))
def numbers_added_and_subtracted(self, x):
    x = self.act(1 - self.a(x))
    x = self.act(torch.rsub(self.b(x), 1) + 0.5)
    x = torch.rsub(x, self.g, alpha=2)
    return torch.sub(x, 0.25, alpha=2).sum((2, 3)).add(1, alpha=0.5).neg().subtract(2)


@case(a=conv(), b=conv(4), act=nn.ReLU(), g=dyadic(4, 1, 1), h=dyadic(1, 4, 1, 1, seed=5))
def fused_products(self, x):
    x = self.act(torch.addcmul(self.a(x), self.g, self.h, value=2))
    y = torch.addcmul(self.h, x, self.g, value=-0.5).addcdiv(x, torch.tensor([4.0]), value=2)
    z = torch.lerp(x, y, 0.25) + x.lerp(self.h * 0 + 1, self.g)
    return self.act(self.b(z)).addcdiv(self.g, self.h * 0 + 2).sum((2, 3))


@case(a=conv(), act=nn.ReLU(), buffer=dyadic(1, 4, 1, 1))
def buffers_on_either_side(self, x):
    x = self.act(self.buffer - self.a(x))
    return (self.buffer * x + (x - self.buffer) + self.buffer.mul(x).multiply(0.5)).sum((2, 3))


@case(ROWS, a=nn.Linear(5, 6), act=nn.ReLU(), w=dyadic(3), v=dyadic(6))
def factors_of_fusion(self, x):
    w = F.relu(self.w + 1)
    x = self.act(w[0] * self.a(x) + torch.multiply(self.a(x), w[1]) - F.relu(self.v).view(1, 6))
    return w[2] * x + torch.subtract(x, self.w[0])


@case(ROWS, a=nn.Linear(5, 6), buffer=dyadic(6))
def buffers_beside_activations_called_as_functions(self, x):
    """What is computed of a buffer is a new tensor in every trace."""
    return torch.relu(self.a(x) * torch.tensor([0.5])) - (-self.buffer) + torch.relu(self.buffer).view(1, -1)


@case(ROWS, a=nn.Linear(5, 6), act=nn.ReLU(), w=dyadic(5, 6), buffer=dyadic(5))
def operations_on_the_inputs(self, x):
    x = torch.multiply(x, 2).subtract(self.buffer).divide(2).lerp(x, 0.5).addcmul(x, self.buffer) @ self.w
    return self.act(self.act(x) - (-self.buffer[:1])) * 0.5


@case(a=conv(3, 6), n=nn.BatchNorm2d(6), act=nn.ReLU(), fc=nn.Linear(6, 3))
def normalised_channels_as_many_as_columns(self, x):
    return self.fc(self.n(self.act(self.a(x)))).sum((1, 2))


# Matrix products.


@case(ROWS, w=dyadic(5, 6), v=dyadic(6, 6, seed=1), u=dyadic(6, seed=2), b=dyadic(6, seed=3), act=nn.ReLU())
def products_in_every_spelling(self, x):
    x = self.act(self.b + self.act(x) @ self.w)
    x = self.act(torch.addmm(self.b, x.matmul(self.v), self.v, beta=2, alpha=0.5))
    y = F.linear(input=x, weight=self.v, bias=None) + F.linear(x, bias=self.b, weight=self.v.t())
    y = y + torch.mm(x, self.v * 2).addmm(x, self.v) + F.linear(x, self.u).unsqueeze(1)
    z = (self.v @ x.unsqueeze(2)).squeeze(2) + (self.u @ x.unsqueeze(2)) + x.mv(self.u).unsqueeze(-1)
    return torch.matmul(self.act(y), self.u).unsqueeze(1) + z


@case(a=conv(), act=nn.ReLU(), w=dyadic(4, 5), k=dyadic(2, 4, 6), p=dyadic(4, 6, seed=1))
def einsum(self, x):
    x = self.act(self.a(x))
    y = self.act(torch.einsum("nchw,cd->ndhw", x, self.w))
    z = torch.einsum("och,nchw->nwo", self.k, x) + torch.einsum("nchw->nw", x).unsqueeze(2)
    weighted = torch.einsum("nchw,ch->nhwc", (x, self.p)).sum((1, 2, 3))
    outer = torch.einsum("nc,o->noc", x[:, :, 0, 0], self.w[0])
    return y.sum((2, 3)) + z.sum((1, 2)).unsqueeze(1) + weighted.unsqueeze(1) + outer.sum(2)


# Masks.


@case(a=conv(), act=nn.ReLU(), buffer=torch.arange(36).view(6, 6) % 3 == 0, c=dyadic(6))
def selections(self, x):
    mask = x[:, :1] > 0.25
    y = self.a(x)
    x = self.act(torch.where(mask, y, 0) + torch.where(self.buffer, torch.zeros(()), y) * 0.5)
    x = torch.where(self.buffer, x, self.act(y + 1)) + x.where(mask, torch.tensor(0.375)) + torch.where(mask, self.c, x)
    x = x.masked_fill(mask, 0.5).masked_fill(self.buffer, -0.25) + y.masked_fill(~mask, torch.tensor(0.0))
    return self.act(x).sum((2, 3)) + torch.where(mask, x, float("-inf")).amax((2, 3))


@case(a=conv(), b=conv(4, padding=0), act=nn.ReLU(), edge=nn.ConstantPad2d((1, 0, 2, 1), -0.5))
def padding_with_numbers(self, x):
    x = self.act(self.b(F.pad(self.act(self.a(x)), (1, 1, 1, 1), value=0.75)))
    return self.edge(x).sum((2, 3))


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_networks_own_answer(name, tmp_path):
    forward, inputs, held = CASES[name]
    agrees(network(forward, **held), *inputs, folder=tmp_path)


OPERATIONS = {
    "x * c": lambda x, c, norm: x * c,
    "c + x": lambda x, c, norm: c + x,
    "c - x": lambda x, c, norm: c - x,
    "x.sub(c)": lambda x, c, norm: x.sub(c, alpha=0.5),
    "x / c": lambda x, c, norm: x / 2.0 ** (c * 4).round(),
    "max of x * c": lambda x, c, norm: F.max_pool2d(x * c, 2, 1, 1)[..., 1:, 1:],
    "norm": lambda x, c, norm: norm(x) * c,
}
SHAPES_OF_CONSTANTS = [(), (1,), (6,), (4, 1, 1), (1, 4, 1, 1), (6, 1), (4, 6, 6), (1, 1, 6, 6), (1, 1, 1), (4, 1, 6)]


@given(
    chosen=st.lists(
        st.tuples(st.sampled_from(list(OPERATIONS)), st.sampled_from(SHAPES_OF_CONSTANTS)), min_size=4, max_size=4
    ),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_any_operations_with_any_constants_around_maps_and_neurons(chosen, seed):
    constants = [dyadic(*shape, seed=seed + at, parts=4, reach=4) for at, (_, shape) in enumerate(chosen)]

    def forward(self, x):
        places = [lambda x, at=at: OPERATIONS[chosen[at][0]](x, getattr(self, f"c{at}"), self.n) for at in range(4)]
        x = self.act(places[0](self.a(x)) + 0.25)
        x = self.act(places[2](self.b(places[1](x))))
        return (places[3](x) + self.a.bias.view(1, 4, 1, 1)).sum((2, 3))

    held = {f"c{at}": constant for at, constant in enumerate(constants)}
    agrees(
        network(forward, seed, a=conv(), b=conv(4, groups=2), n=nn.BatchNorm2d(4), act=nn.ReLU(), **held),
        IMAGES,
        spikes=False,
    )


def test_factors_and_addends_fold_into_the_map_before_and_behind():
    for name in ("layer_scale", "frozen_batch_norm"):
        forward, _, held = CASES[name]
        snn = casc_core.convert(casc_core.prepare(network(forward, **held), adapter="cnn", q=4), adapter="cnn")
        (program,) = snn.programs.values()
        kinds = [type(snn.operations()[step.op]).__name__ for step in program.steps]
        assert kinds.count("Convolution") == 2
        assert kinds.count("Scale") <= 1, kinds  # the one behind the last neurons


def test_operations_that_meet_a_factor_of_zero_are_none():
    """A pruned channel's spikes arrive nowhere, whether its factor was folded or not."""

    def forward(self, x):
        x = self.act(self.a(x))
        return self.act(x * self.g + x * self.h).sum((2, 3))

    def operations(g):
        h = torch.ones(4, 6, 6)
        snn = casc_core.convert(casc_core.prepare(network(forward, a=conv(), act=nn.ReLU(), g=g, h=h), q=4))
        return snn.simulate(IMAGES).spikes["act#2"].operations.sum(0), snn.simulate(IMAGES)

    every, _ = operations(torch.ones(4, 6, 6))
    some, simulation = operations(torch.ones(4, 6, 6) * torch.tensor([1.0, 0.0, 1.0, 0.0]).view(4, 1, 1))
    assert 0 < float(every - some) < float(every)
    assert simulation.silent_at.shape == (3,)


SHAPES = {
    "too many channels": (dyadic(5, 1, 1), "for 5 channels, and what it reads has 4"),
    "too many positions": (dyadic(5), r"shape \[5\] meet a tensor of shape \[3, 4, 6, 6\]"),
    "not finite": (torch.tensor([float("inf")]), "holds inf: weights must be finite"),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("operation", [torch.mul, torch.add, torch.sub, torch.div], ids=lambda f: f.__name__)
def test_constants_that_do_not_fit_are_named(name, operation):
    constant, message = SHAPES[name]

    def forward(self, x):
        return self.act(operation(self.a(x), self.constant)).sum((2, 3))

    constant = constant + 2.0 if operation is torch.div else constant
    with pytest.raises((ConversionError, InputError), match=message):
        casc_core.convert(network(forward, a=conv(), act=casc_core.CQReLU(4), constant=constant), adapter="cnn")(IMAGES)


def divided_by_zero(self, x):
    return self.act(self.a(x) / 0).sum((2, 3))


def divided_by_a_zero_among_others(self, x):
    return self.act(self.a(x) / torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)).sum((2, 3))


def interpolated_by_a_signal(self, x):
    x = self.act(self.a(x))
    return torch.lerp(x, x, x).sum((2, 3))


def mask_of_spikes(self, x):
    x = self.act(self.a(x))
    return torch.where(x, x, 0).sum((2, 3))


REFUSED = {
    mask_of_spikes: "its mask depends on spikes",
    divided_by_zero: "divides by 0",
    divided_by_a_zero_among_others: "divides by 0",
    interpolated_by_a_signal: "weight is no constant",
}


@pytest.mark.parametrize("forward", REFUSED, ids=lambda forward: forward.__name__)
def test_what_stays_refused_says_why(forward):
    with pytest.raises(ConversionError, match=REFUSED[forward]):
        casc_core.prepare(network(forward, a=conv(), act=nn.ReLU()), adapter="cnn", q=4)
