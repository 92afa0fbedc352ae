"""Batches under a memory limit: the same answer in parts, and no parts where samples depend on one another."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from user_models import LENGTHS, TOKENS

import casc_core
from casc_core import splitting
from casc_seq.rnn import RNN


def mean_pooled(self, tokens, lengths):
    states, _ = self.rnn(self.emb(tokens), lengths=lengths)
    return self.fc(states.sum(1) / lengths.unsqueeze(1))


class Layers(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.emb, self.rnn, self.fc = nn.Embedding(11, 4), RNN(4, 5, batch_first=batch_first, q=4), nn.Linear(5, 3)


def converted(forward, batch_first=True):
    torch.manual_seed(0)
    return casc_core.convert(type("Model", (Layers,), {"forward": forward})(batch_first).eval(), adapter="rnn")


@pytest.fixture
def large():
    """A batch of which a limit of a few kilobytes admits only parts."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 7, (100,), generator=generator)
    tokens = torch.randint(0, 11, (100, 6), generator=generator)
    return tokens, lengths


def runs_of(snn, monkeypatch):
    """The batch sizes of the runs from here on."""
    sizes = []
    evaluate = type(snn)._evaluate

    def watched(self, run, program, values):
        result = evaluate(self, run, program, values)
        sizes.append(self._splitter(program).followed(values, run).samples)
        return result

    monkeypatch.setattr(type(snn), "_evaluate", watched)
    return sizes


@pytest.mark.parametrize("limit", [1, 4000, 20_000])
def test_parts_give_the_same_bits(large, limit, monkeypatch):
    snn = converted(mean_pooled)
    expected, whole, reference = snn(*large), snn.simulate(*large, T=11), snn.reference(*large)
    until_silent = snn.simulate(*large)
    snn.memory_limit = limit
    sizes = runs_of(snn, monkeypatch)
    assert torch.equal(snn(*large), expected)
    assert max(sizes) < 100
    assert torch.equal(snn.reference(*large), reference)
    for steps, before in ((11, whole), (None, until_silent)):
        found = snn.simulate(*large, T=steps)
        assert torch.equal(found.logits, before.logits)
        assert torch.equal(found.silent_at, before.silent_at)
        assert torch.equal(found.readout_operations, before.readout_operations)
        for name, layer in before.spikes.items():
            assert found.spikes[name].neurons == layer.neurons
            for what in ("positive", "negative", "operations", "silent_at"):
                assert torch.equal(getattr(found.spikes[name], what), getattr(layer, what))
    assert max(sizes) < 100


def test_more_memory_means_larger_parts(large, monkeypatch):
    counts = []
    for limit in (2000, 20_000, 2 * 2**30):
        snn = converted(mean_pooled)
        snn.memory_limit = limit
        snn(*large)
        sizes = runs_of(snn, monkeypatch)
        snn(*large)
        counts.append(len(sizes))
        monkeypatch.undo()
    assert counts[0] > counts[1] > counts[2] == 1


def test_samples_in_the_second_dimension_and_initial_states(monkeypatch):
    def forward(self, tokens, hx):
        return self.fc(self.rnn(self.emb(tokens), hx)[0].sum(0))

    snn = converted(forward, batch_first=False)
    tokens, hx = torch.randint(0, 11, (6, 50)), torch.randn(1, 50, 5)
    expected = snn(tokens, hx)
    snn.memory_limit = 3000
    assert torch.equal(snn(tokens, hx), expected)
    sizes = runs_of(snn, monkeypatch)
    assert torch.equal(snn(tokens, hx), expected)
    assert sizes[-1] < 50  # the first were to find the dimension out


def test_a_batch_whose_samples_depend_on_one_another_stays_whole(large):
    def forward(self, tokens, lengths):
        states, _ = self.rnn(self.emb(tokens), lengths=lengths)
        return self.fc(states.sum(1) / lengths.max())

    snn = converted(forward)
    expected = snn(*large)
    snn.memory_limit = 4000
    with pytest.warns(UserWarning, match="cannot be split"):
        assert torch.equal(snn(*large), expected)


def test_a_batch_that_shows_nothing_teaches_nothing(large):
    """One sample, or texts of one length, look independent of one another; the next batch is asked anew."""

    def coupled(self, tokens, lengths):
        states, _ = self.rnn(self.emb(tokens), lengths=lengths)
        return self.fc(states.sum(1) / lengths.max())

    def started(self, tokens, hx):
        return self.fc(self.rnn(self.emb(tokens), hx)[0].sum(1))

    tokens, lengths = large
    snn = converted(coupled)
    expected = snn(*large)
    snn.memory_limit = 300
    snn(tokens[:1], lengths[:1])
    snn(tokens, torch.full((100,), 6))
    with pytest.warns(UserWarning, match="cannot be split"):
        assert torch.equal(snn(*large), expected)
    snn, hx = converted(started), torch.randn(1, 100, 5)
    expected = snn(tokens, hx)
    snn.memory_limit = 1000
    snn(tokens[:1], hx[:, :1])
    assert torch.equal(snn(tokens, hx), expected)


def test_one_sample_too_large_is_run_alone(monkeypatch):
    snn = converted(mean_pooled)
    expected = snn(TOKENS, LENGTHS)
    snn.memory_limit = 1
    sizes = runs_of(snn, monkeypatch)
    assert torch.equal(snn(TOKENS, LENGTHS), expected)
    assert torch.equal(snn(TOKENS[:1], LENGTHS[:1]), expected[:1])
    assert sizes[-8:] == [1] * 8


def test_a_usual_batch_is_not_tried_out_first(large, monkeypatch):
    snn = converted(mean_pooled)
    sizes = runs_of(snn, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn(*large)
    assert sizes == [100]
    assert splitting.DEFAULT_LIMIT == 2 * 2**30


def test_the_limit_passes_on(large):
    snn = converted(mean_pooled)
    snn.memory_limit = 12345
    assert snn.under(casc_core.IF(), casc_core.Continuous()).memory_limit == 12345


@pytest.mark.parametrize(("length", "batch"), [(3, 3), (1, 33), (7, 3)])
def test_what_the_run_does_not_count_as_samples_is_not_split(length, batch):
    """Positions first and no recurrence: a run counts the positions, whatever the output has rows for."""
    model = nn.Sequential(nn.Linear(4, 6), casc_core.CQReLU(q=4), nn.Linear(6, 3))
    forward = type("Model", (nn.Module,), {"forward": lambda self, x: self.layers(x).sum(0)})()
    forward.layers = model
    snn = casc_core.convert(forward.eval(), adapter="rnn")
    x = torch.randn(length, batch, 4)
    expected = snn.simulate(x)
    snn.memory_limit = 1
    with pytest.warns(UserWarning, match="cannot be split"):
        found = snn.simulate(x)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.silent_at, expected.silent_at)


@pytest.mark.parametrize("limit", [0, -3, 2.5, "1 GiB", None, True])
def test_a_limit_is_a_number_of_bytes(limit):
    snn = converted(mean_pooled)
    with pytest.raises(casc_core.ConfigError, match="memory_limit"):
        snn.memory_limit = limit


def test_features_too(monkeypatch):
    model = nn.Sequential(nn.Linear(5, 8), casc_core.CQReLU(q=4), nn.Linear(8, 3))
    snn = casc_core.convert(model, adapter="rnn")
    x = torch.randn(200, 5)
    expected = snn(x)
    snn.memory_limit = 10_000
    sizes = runs_of(snn, monkeypatch)
    assert torch.equal(snn(x), expected)
    assert max(sizes) < 200
