"""Steps to silence of each sample, wherever a forward puts the samples: those of a run of that sample alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import casc_core
from casc_core.engine.batching.places import Axis, Mixed
from casc_core.engine.recording.spike_counts import last_spike
from casc_seq.layers.rnn import RNN

WAITING = torch.tensor([4.0, 0.0, 1.0, 0.25, 2.0])
SEQUENCES = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)) * WAITING[:, None, None]
IMAGES = torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(0)) * WAITING[:, None, None, None]
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0], [7, 0, 0, 0], [3, 3, 9, 0]])


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.hidden, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.act, self.act2 = casc_core.CQReLU(q=4), casc_core.CQReLU(q=4)
        self.conv, self.conv2, self.pad = (
            nn.Conv2d(2, 4, 3, bias=False),
            nn.Conv2d(4, 4, 3, bias=False),
            nn.ZeroPad2d((2, 0, 1, 0)),
        )
        self.emb, self.rnn = nn.Embedding(11, 4), RNN(4, 4, q=4)


def transposed(self, x):
    h = self.act(self.fc(x.transpose(0, 1)))
    return self.out(self.act2(self.hidden(h)).sum(0))


def time_in_the_batch(self, x):
    h = self.act(self.fc(x.reshape(-1, 4)))
    return self.out(self.act2(self.hidden(h)).view(x.shape[0], -1, 4).sum(1))


def two_inputs_in_one_batch(self, x, y):
    a, b = self.act(self.fc(torch.cat([x, y]))).chunk(2)
    return self.out(self.act2(self.hidden(a - b)).sum(1))


def zero_padded(self, x):
    h = self.act2(self.conv2(self.act(self.pad(self.conv(x)))))
    return self.out(h.sum((2, 3)))


def padded_left_and_at_the_top(self, x):
    h = self.act2(self.conv2(F.pad(self.act(F.pad(self.conv(x), (1, 0, 2, 0))), (3, 0))))
    return self.out(h.amax((2, 3)))


def padded_before_the_samples(self, x):
    h = self.act(F.pad(self.fc(x).permute(1, 2, 0).unsqueeze(0), (0, 0, 1, 1, 2, 0)))
    return self.out(h.squeeze(0)[2:, 1:-1].permute(2, 0, 1).sum(1))


def filled(self, x):
    h = self.act(self.fc(x).masked_fill((x.sum(-1, keepdim=True) > 0), 0.0))
    return self.out(self.act2(self.hidden(h)).sum(1))


def filled_on_the_way_to_a_maximum(self, x):
    h = self.act(self.fc(x)).masked_fill(torch.arange(3)[:, None] > 1, float("-inf")).amax(1)
    return self.out(self.act2(self.hidden(h)))


def tokens_positions_first(self, tokens):
    return self.out(self.act2(self.hidden(self.rnn(self.emb(tokens))[0])).sum(0))


def positions_first_behind_neurons(self, tokens):
    return self.out(self.rnn(self.act(self.hidden(self.emb(tokens))))[0][-1])


FORWARDS = {
    transposed: (SEQUENCES,), time_in_the_batch: (SEQUENCES,), two_inputs_in_one_batch: (SEQUENCES, SEQUENCES.flip(0)),
    zero_padded: (IMAGES,), padded_left_and_at_the_top: (IMAGES,), padded_before_the_samples: (SEQUENCES,),
    filled: (SEQUENCES,), filled_on_the_way_to_a_maximum: (SEQUENCES,), tokens_positions_first: (TOKENS.t(),),
    positions_first_behind_neurons: (TOKENS.t(),),
}  # fmt: skip


def network(forward):
    torch.manual_seed(10)
    return casc_core.convert(type("Model", (Layers,), {"forward": forward})().eval(), adapter="rnn")


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_each_sample_is_silent_as_if_it_were_alone(forward):
    snn, inputs = network(forward), FORWARDS[forward]
    whole, dim = snn.simulate(*inputs), int("positions" in forward.__name__)
    alone = [snn.simulate(*(each.narrow(dim, sample, 1) for each in inputs)) for sample in range(5)]
    assert whole.silent_at.tolist() == [int(each.silent_at) for each in alone]
    assert len(set(whole.silent_at.tolist())) > 1
    for name, layer in whole.spikes.items():
        assert layer.silent_at.tolist() == [int(each.spikes[name].silent_at) for each in alone]
    report = casc_core.verify(snn, *inputs)
    assert report.exact
    assert torch.equal(report.silent_at, whole.silent_at)
    snn.memory_limit = 2000
    analysis = casc_core.analyse(snn, [(*inputs, torch.zeros(5, dtype=torch.int64))])
    assert torch.equal(analysis.silent_at, whole.silent_at)
    assert analysis.samples == 5


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.out(self.act(self.fc(x.roll(1, 0))).sum(1)),
        lambda self, x: self.out(self.act(self.fc(x - x.mean(0))).sum(1)),
        lambda self, x: self.out(self.act(self.fc(x.flip(0)[:2])).sum(1)),
        lambda self, x: self.out(self.act(self.fc(x)[torch.tensor([1, 0, 2, 4, 3])]).sum(1)),
    ],
)
def test_a_spike_of_no_single_sample_counts_for_all(forward):
    snn = network(forward)
    simulation = snn.simulate(SEQUENCES)
    assert simulation.silent_at.shape == (5,)
    assert len(set(simulation.silent_at.tolist())) == 1
    assert int(simulation.silent_at[0]) > 0


def test_the_last_spike_of_each_sample():
    train = torch.zeros(4, 4, 3, dtype=torch.int8)
    train[2, 1, 0], train[0, 2, 2], train[3, 3, 1] = 1, -1, 1
    assert last_spike(train, Axis(0), 4).tolist() == [0, 3, 1, 4]
    assert last_spike(train, Axis(0, inner=2), 2).tolist() == [3, 4]
    assert last_spike(train, Axis(0), 2).tolist() == [1, 4]
    assert last_spike(train, Axis(1), 3).tolist() == [3, 4, 1]
    for nobody_s in (Mixed("it is so"), None):
        assert last_spike(train, nobody_s, 3).tolist() == [4, 4, 4]
    assert last_spike(train[:0], Axis(0), 4).tolist() == [0, 0, 0, 0]


class Shared(nn.Module):
    """A table that all samples share comes before them."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 12), casc_core.CQReLU(q=4), nn.Linear(12, 5)

    def forward(self, table, x):
        return self.b(self.act(self.a(x) + self.a(table).mean(0)))


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
def test_a_shared_input_counts_no_samples(rows):
    torch.manual_seed(0)
    snn, x = casc_core.convert(Shared()), torch.randn(4, 4) * WAITING[:4, None]
    table = torch.randn(rows, 4)
    alone = [int(snn.simulate(table, row[None]).silent_at) for row in x]
    assert snn.simulate(table, x).silent_at.tolist() == alone
    assert casc_core.verify(snn, table, x).exact
    assert casc_core.analyse(snn, [(table, x, torch.zeros(4, dtype=torch.long))]).samples == 4


class Sides(nn.Module):
    """Meets a grid made in the forward, whose sides are as long as the batch."""

    def __init__(self, grid):
        super().__init__()
        self.c, self.d, self.act, self.act2 = (
            nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1), casc_core.CQReLU(q=4), casc_core.CQReLU(q=4)
        )  # fmt: skip
        self.grid = grid

    def forward(self, x):
        return self.act2(self.d(self.grid(self.act(self.c(x))))).sum((2, 3))


@pytest.mark.parametrize(
    "grid",
    [
        lambda y: F.pad(y, (1, 1, 0, 0), value=0.5),
        lambda y: y + torch.arange(6).expand(6, 6),
        lambda y: y + torch.ones(y.shape[-2], y.shape[-1]) * 2,
        lambda y: torch.where((torch.arange(6) > 3).expand(6, 6), y, 0.5),
    ],
)
def test_a_side_as_long_as_the_batch_is_no_batch(grid):
    torch.manual_seed(4)
    snn = casc_core.convert(Sides(grid))
    images = torch.randn(6, 2, 6, 6) * torch.tensor([4.0, 0.0, 1.0, 0.25, 2.0, 0.5])[:, None, None, None]
    alone = [int(snn.simulate(image[None]).silent_at) for image in images]
    assert snn.simulate(images).silent_at.tolist() == alone
    assert len(set(alone)) > 1
