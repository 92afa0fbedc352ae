"""Tensors taken apart into parts, and tensors made of a shape: the network's own answer, bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dyadic import IMAGES, ROWS, agrees, dyadic, network
from named_forwards import Forwards
from torch import nn

import casc_core
from casc_core import ConversionError, InputError

CASES = Forwards(IMAGES)
case = CASES.add


def conv(inputs=3, outputs=4, kernel=3, padding=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, **options)


@case(a=conv(), b=conv(2), act=nn.ReLU())
def chunks_in_every_spelling(self, x):
    x = self.act(self.a(x))
    left, right = x.chunk(2, 1)
    parts = [self.b(part) for part in torch.chunk(x, chunks=2, dim=1)]
    total = sum(part * (index + 1) for index, part in enumerate(parts))
    for part in x.chunk(4, dim=1)[1:-1]:
        total = total + part
    return self.act(torch.cat([total, left - right, *x.chunk(2, 1)], 1)).sum((2, 3)) + len(x.chunk(2, 1))


@case(a=conv(), b=conv(1), c=conv(3), act=nn.ReLU())
def splits_in_every_spelling(self, x):
    x = self.act(self.a(x))
    small, large = x.split([1, 3], dim=1)
    y = self.b(small) + self.c(large)
    for part, map_ in zip(torch.split(x, split_size_or_sections=(1, 3), dim=1), (self.b, self.c), strict=True):
        y = y + map_(part)
    first, second = x.split(2, 1)  # how many they are is checked when it runs
    last = [*x.split_with_sizes([3, 1], 1)][-1]
    return self.act(torch.cat([y, first + second[:, :, :, 1:].sum(-1, keepdim=True), last], 1)).sum((2, 3))


@case(a=conv(), act=nn.ReLU())
def unbound_and_joined_again(self, x):
    x = self.act(self.a(x))
    a, b, c, d = x.unbind(1)
    y = torch.stack([a + b, c - d], 1)
    z = torch.cat([torch.stack(x.unbind(1), 2).flatten(1, 2), torch.cat(x.split(3, 1), 1).flatten(1, 2)], 2)
    return self.act(y).sum((2, 3)).repeat(1, 6) - self.act(z).sum(1)


@case(a=conv(), act=nn.ReLU(), fc=nn.Linear(6, 6), columns=nn.Unfold((2, 3), dilation=(1, 2), padding=(1, 0)))
def triangles_and_windows(self, x):
    x = self.act(self.a(x))
    y = x.tril(1) - torch.triu(x, -1).unfold(3, 2, 2).sum(-1).repeat(1, 1, 1, 2) + x.diagonal(dim1=2, dim2=3)[..., None]
    z = F.unfold(x, 3, stride=2).sum(2)[:, :6] + self.columns(x).sum(2)[:, :6]
    sizes = x.moveaxis(1, -1).swapdims(1, 3).ravel().numel() // x.numel()
    return self.act(self.fc(y)).sum((1, 2)) + self.act(z) + torch.broadcast_to(x[:, :1, 0, 0], (3, 6)) * sizes


@case(a=conv(), act=nn.ReLU(), fc=nn.Linear(6, 3))
def functions_of_sizes(self, x):
    x = self.act(self.a(x))
    rows, columns = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
    causal = torch.tril(torch.ones(x.shape[3], x.shape[3]))
    seen = torch.ones(x.shape[3], x.shape[3], dtype=torch.bool).triu(1)
    y = (x * (rows - columns)) @ (causal - 2).to(x) + (x @ x.mT).masked_fill(seen, 0.0)
    ramp = torch.linspace(-1, 1, 2 * x.shape[3] - 7)[1:].repeat(x.shape[3] // 4)
    return self.fc((self.act(y) * F.pad(ramp, (0, 2))).sum((1, 2)))


@case(torch.tensor([[3, 0, 1], [2, 2, 0]]), act=nn.ReLU(), table=dyadic(4, 3))
def one_hot(self, tokens):
    return self.act((F.one_hot(tokens, num_classes=4)[..., None] * self.table).sum(2)).sum(1)


@case(a=conv(), act=nn.ReLU(), b=conv(4, 3))
def rounded_inputs(self, x):
    return self.b(self.act(self.a(x.round() + x.sign())) + x.floor().sum(1, keepdim=True)).sum((2, 3))


@case(a=conv(), b=conv(1), act=nn.ReLU())
def parts_of_the_input(self, x):
    total = 0
    for channel in x.chunk(3, 1):
        total = total + self.act(self.b(channel))
    red, green, blue = x.unbind(1)
    return total.sum((2, 3)) + self.act(self.a(torch.stack((green, red, blue), 1))).sum((2, 3))


@case(a=conv(), act=nn.ReLU(), more=nn.ModuleList([conv(2, 2), conv(2, 2)]), b=conv(8, 4))
def split_and_grown_as_in_c2f(self, x):
    parts = list(self.act(self.a(x)).split(2, 1))  # how many they are follows from the channels of the convolution
    parts.extend(self.act(layer(parts[-1])) for layer in self.more)
    return self.act(self.b(torch.cat(parts, 1))).sum((2, 3))


@case(a=conv(), n=nn.BatchNorm2d(4), act=nn.ReLU(), b=conv(4))
def iterated_by_known_sizes(self, x):
    x = self.act(self.n(self.a(x)))
    first, *rest = x.split(1, dim=1)
    total = sum(part * (index + 1) for index, part in enumerate(torch.relu(x).unbind(1)))
    backwards = torch.stack(x.unbind(1)[::-1], 1) - torch.cat([*rest, first], 1)
    halves = list(x.view(-1, 2, 2, 6, 6).unbind(1))
    y = torch.cat([torch.stack([total, total], 1), *halves[1:]], 1)
    return self.act(self.b(backwards) + y + len(x.split(3, 1))).sum((2, 3))


@case(a=conv(), act=nn.ReLU())
def data_of_tensors(self, x):
    return self.act(self.a(x.data)).data.sum((2, 3))


@case(a=conv(), act=nn.ReLU(), w=dyadic(4, 4), v=dyadic(8))
def parts_of_parameters(self, x):
    x = self.act(self.a(x)).sum((2, 3))
    return self.act(x * self.v.split([4, 4])[1] + 1) @ torch.stack([row * 2 for row in self.w.unbind(0)])


@case(
    ROWS, a=nn.Linear(5, 6), b=nn.Linear(8, 6), act=nn.ReLU(), c=nn.Linear(8, 6),
    token=dyadic(1, 1, 6, parts=2**20, reach=2**19),
)  # fmt: skip
def factories_of_the_batch(self, x):
    h = self.act(self.a(x) + 1)
    for index in range(2):
        zeros = torch.zeros(x.shape[0], 2, device=x.device, dtype=x.dtype) if index else h.new_zeros(x.size(0), 2)
        h = self.act((self.c if index else self.b)(torch.cat([h, zeros], 1)) + torch.zeros(h.shape) + 0.5)
    h = h + torch.ones(x.shape[0], 1) - torch.full((x.shape[0], 6), 0.375, device=h.device)
    tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), h.unsqueeze(1)], 1) + torch.eye(6)[:2]
    return self.act(tokens * 0.5).sum(1) + torch.arange(6) * h


@case(a=conv(), b=conv(4), act=nn.ReLU())
def factories_like_a_signal(self, x):
    x = self.act(self.a(x))
    y = torch.zeros_like(x)
    for part in (x, self.b(x)):
        y = y + part
    y = self.act(y + torch.ones_like(x) - torch.full_like(x, 0.25) + x.new_full((1, 4, 1, 1), 0.125))
    y = torch.cat([x.new_zeros(x.shape[0], 1, 6, 6), y, x.new_ones(x.size(0), 1, x.shape[2], 6)], 1)
    return self.act(y + torch.zeros_like(y[:, :1])).sum((2, 3))


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_networks_own_answer(name, tmp_path):
    forward, inputs, held = CASES[name]
    agrees(network(forward, **held), *inputs, folder=tmp_path)


@pytest.mark.parametrize("take", [lambda parts: parts[::-1], lambda parts: list(parts)])
def test_parts_of_which_only_a_run_knows_how_many_they_are(take):
    model = network(lambda self, x: self.act(torch.stack(take(self.act(x).unbind(1)), 1)), act=nn.ReLU())
    with pytest.raises(ConversionError, match=r"is taken apart into as many parts as .*unpack it"):
        casc_core.prepare(model, q=4)


def test_zeros_drive_nothing_and_ones_flow_while_awake():
    def forward(self, x):
        return self.act(torch.cat([self.act(x), self.make(x)], 1))

    drives = {}
    for make in (torch.zeros_like, torch.ones_like):
        snn = casc_core.convert(network(forward, act=casc_core.CQReLU(4), make=make), adapter="cnn")
        drives[make] = snn.simulate(ROWS[:, :3]).spikes["act#2"]
        assert casc_core.verify(snn, ROWS[:, :3]).exact
    none, ones = (drives[make] for make in (torch.zeros_like, torch.ones_like))
    assert float(none.multiplications.sum()) < float(ones.multiplications.sum())
    assert int(ones.positive.sum()) == int(none.positive.sum()) + 4 * 3 * 4


def three_chunks(self, x):
    return self.act(sum(x[:, :, None].chunk(3, 1))).sum(1)


def pairs_by_unpacking(self, x):
    a, b = self.act(x).split(2, 1)
    return a + b


def two_by_unpacking(self, x):
    a, b = self.act(x).unbind(1)
    return torch.stack([a, b], 1)


@pytest.mark.parametrize(
    ("forward", "fits", "fails"),
    [(three_chunks, 6, 4), (three_chunks, 5, 2), (pairs_by_unpacking, 4, 6), (two_by_unpacking, 2, 3)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_another_number_of_parts_is_told(forward, fits, fails):
    """torch gives fewer chunks than asked for where they cannot be equal."""
    snn = casc_core.convert(network(forward, act=casc_core.CQReLU(2)), adapter="cnn")
    if fits != 5:
        snn(dyadic(3, fits))
    with pytest.raises(InputError, match=r"takes apart into \d falls into \d for this input(.*\n.*)test_parts_and"):
        snn(dyadic(3, fails))


def unbound_in_a_loop(self, x):
    return self.act(sum(part for part in x.unbind(1)))


def split_in_a_loop(self, x):
    return self.act(sum([*torch.split(self.act(x), 2, 1)]))


def too_many_to_unpack(self, x):
    a, b = self.act(x).chunk(3, 1)
    return a + b


def memory_as_it_was(self, x):
    return self.act(x + torch.empty(x.shape[0], 5))


def memory_like_a_signal(self, x):
    return self.act(self.act(x) + torch.empty_like(self.act(x)))


def filled_with_spikes(self, x):
    return self.act(x.new_full((3, 1), 0.5) + torch.full_like(self.act(x), self.act(x).sum()))


REFUSED = {
    unbound_in_a_loop: ("unbind()", r"a, b = x\.unbind\(1\)"),
    split_in_a_loop: ("split()", r"x\.split\(\[sizes, \.\.\.\]\)"),
    too_many_to_unpack: ("too many values to unpack", ""),
    memory_as_it_was: ("empty()", r"use torch\.zeros"),
    memory_like_a_signal: ("empty_like()", r"use torch\.zeros"),
    filled_with_spikes: ("full_like()", r"expand\(\)"),
}


@pytest.mark.parametrize("forward", REFUSED, ids=lambda forward: forward.__name__)
def test_what_stays_refused_says_why(forward):
    what, remedy = REFUSED[forward]
    with pytest.raises(ConversionError, match=remedy or None) as error:
        casc_core.prepare(network(forward, act=nn.ReLU()), adapter="cnn", q=4)
    assert what in str(error.value)
    assert "test_parts_and_factories.py" in str(error.value)
