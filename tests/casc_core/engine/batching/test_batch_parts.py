"""Batches under a memory limit: the same answer in parts, and no parts where samples depend on one another."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from recorded import runs_of
from torch import nn
from user_models import LENGTHS, TOKENS

import casc_core
from casc_core.engine.batching import batch_parts as splitting
from casc_seq.layers.rnn import RNN


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


class Wide(nn.Module):
    """A wide layer whose neurons fire at once, or once those of another have."""

    def __init__(self, late):
        super().__init__()
        self.a, self.b, self.act, self.late = nn.Linear(20, 400), nn.Linear(20, 100), nn.ReLU(), late
        self.fc = nn.Linear(500, 3)

    def forward(self, x):
        wide = self.a(x)
        wide = wide if self.late else self.act(wide)
        narrow = self.act(self.b(x))
        return self.fc(torch.cat([self.act(wide) if self.late else wide, narrow], 1))


def test_a_drive_takes_its_room_where_it_is_computed():
    """As trained, the sums of real-valued input are taken where neurons receive them, beside all that is there by then."""
    room, x = {}, torch.randn(64, 20)
    for late in (False, True):
        snn = casc_core.convert(casc_core.prepare(Wide(late), q=1))
        program, inputs = snn._bound((x,), {})
        room[late] = snn._splitter(program).followed(inputs, snn._spiking_run(None, None)).bytes
    spikes = 64 * 100 * 2  # of the narrow layer, in two steps
    assert room[True] == room[False] + spikes


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
    assert max(sizes) < 50
    assert sum(sizes) == 50  # nothing is run to find the dimension out


def test_a_batch_whose_samples_depend_on_one_another_stays_whole(large):
    def forward(self, tokens, lengths):
        states, _ = self.rnn(self.emb(tokens), lengths=lengths)
        return self.fc(states.sum(1) / lengths.max())

    snn = converted(forward)
    expected = snn(*large)
    snn.memory_limit = 4000
    with pytest.warns(UserWarning, match="cannot be split"):
        assert torch.equal(snn(*large), expected)


def flagged(self, tokens, lengths):
    states, _ = self.rnn(self.emb(tokens), lengths=lengths)
    return self.fc(states.sum(1) * (tokens > 9).any())


def rolled(self, tokens, lengths):
    states, _ = self.rnn(self.emb(tokens), lengths=lengths)
    return self.fc(torch.roll(states.sum(1), 4, 0))


def shared_by_all(self, tokens, lengths):
    states, _ = self.rnn(self.emb(tokens), lengths=lengths)
    return self.fc(states.sum(1) / tokens.shape[0])


def by_the_longest(self, tokens, lengths):
    states, _ = self.rnn(self.emb(tokens), lengths=lengths)
    return self.fc(states[:, : lengths.max().item()].sum(1))


def cut_to_the_longest(self, tokens, lengths):
    states, _ = self.rnn(self.emb(tokens[:, : lengths.max()]), lengths=lengths)
    return self.fc(states.sum(1))


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (rolled, r"torch\.roll .*torch\.roll\(states\.sum\(1\), 4, 0\).* moves entries from one sample to another"),
        (flagged, r"Tensor\.any .* puts all samples together"), (shared_by_all, "depends on the size of the batch"),
        (by_the_longest, r"Tensor\.max .* puts all samples together|reads a number from a tensor's values"),
        (cut_to_the_longest, r"Tensor\.max .* puts all samples together"),
    ],
)  # fmt: skip
def test_what_mixes_samples_is_never_split_and_named_once(large, forward, why, monkeypatch):
    snn = converted(forward)
    expected, silent = snn(*large), snn.simulate(*large).silent_at
    snn.memory_limit = 4000
    sizes = runs_of(snn, monkeypatch)
    with pytest.warns(UserWarning, match=why):
        assert torch.equal(snn(*large), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(snn(*large), expected)
        assert torch.equal(snn.simulate(*large).silent_at, silent)
    assert sizes == [100] * 3


def test_what_is_proven_does_not_depend_on_the_batch_at_hand(large):
    """One sample, or texts of one length, look independent of one another."""

    def coupled(self, tokens, lengths):
        states, _ = self.rnn(self.emb(tokens), lengths=lengths)
        return self.fc(states.sum(1) / lengths.max())

    tokens, lengths = large
    snn = converted(coupled)
    expected = snn(*large)
    snn.memory_limit = 300
    snn(tokens[:1], lengths[:1])
    with pytest.warns(UserWarning, match="cannot be split"):
        snn(tokens, torch.full((100,), 6))
    assert torch.equal(snn(*large), expected)


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
def test_samples_where_the_program_keeps_them_apart(length, batch, monkeypatch):
    """Positions first and no recurrence: the sum over them leaves the second dimension."""
    model = nn.Sequential(nn.Linear(4, 6), casc_core.CQReLU(q=4), nn.Linear(6, 3))
    forward = type("Model", (nn.Module,), {"forward": lambda self, x: self.layers(x).sum(0)})()
    forward.layers = model
    snn = casc_core.convert(forward.eval(), adapter="rnn")
    x = torch.randn(length, batch, 4)
    expected = snn.simulate(x)
    assert expected.silent_at.shape == (batch,)
    snn.memory_limit = 1
    sizes = runs_of(snn, monkeypatch)
    found = snn.simulate(x)
    assert sizes == [1] * batch
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.silent_at, expected.silent_at)


def folded(self, x):
    """Time in the batch, and an output that has the samples in its second dimension, three times over."""
    h = self.act(self.fc(x.reshape(-1, 4))).reshape(x.shape[0], 5, 4)
    return torch.cat([h[:, 0], h[:, 1], h[:, 2]]).t()


def test_an_output_is_joined_where_its_samples_are(monkeypatch):
    model = type("Model", (nn.Module,), {"forward": folded})()
    model.fc, model.act = nn.Linear(4, 4), casc_core.CQReLU(q=4)
    snn, x = casc_core.convert(model.eval(), adapter="rnn"), torch.randn(7, 5, 4)
    expected, whole, counted = snn(x), snn.simulate(x), casc_core.analyse(snn, [x])
    assert expected.shape == (4, 21)
    snn.memory_limit = 2500
    sizes = runs_of(snn, monkeypatch)
    assert torch.equal(snn(x), expected)
    assert torch.equal(snn.reference(x), expected)
    found = snn.simulate(x)
    assert max(sizes) < 7
    assert torch.equal(found.logits, whole.logits)
    assert torch.equal(found.silent_at, whole.silent_at)
    with pytest.warns(UserWarning, match="rows of an output are not those of one sample after those of another"):
        assert casc_core.verify(snn, x).exact
    assert torch.equal(casc_core.analyse(snn, [x]).silent_at, counted.silent_at)


def test_an_input_without_dimensions_has_no_samples():
    model = type("Model", (nn.Module,), {"forward": lambda self, x: self.layers(x.reshape(1, 1))})()
    model.layers = nn.Sequential(nn.Linear(1, 6), casc_core.CQReLU(q=4), nn.Linear(6, 3))
    snn = casc_core.convert(model.eval(), adapter="rnn")
    for limit in (1, splitting.DEFAULT_LIMIT):
        snn.memory_limit = limit
        for call in (snn, snn.reference, snn.simulate):
            with pytest.raises(casc_core.InputError, match=r"no input has a dimension that counts samples: 'x' \[\]"):
                call(torch.tensor(0.5))


def test_parts_are_cut_when_their_turn_comes(large):
    snn = converted(mean_pooled)
    snn.memory_limit = 20_000
    tokens, lengths = large
    parts = snn.parts(large, {}, None)
    assert max(parts.sizes) - min(parts.sizes) <= 1
    start = 0
    for part, size in zip(parts, parts.sizes, strict=True):
        assert part["tokens"].data_ptr() == tokens[start:].data_ptr()
        assert torch.equal(part["lengths"], lengths[start : start + size])
        start += size
    assert start == 100


_PEAK = """
import torch, casc_core
from torch import nn

def risen(call):
    before = open("/proc/self/clear_refs", "w").write("5") and peak()
    call()
    return peak() - before

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

torch.manual_seed(0)
torch.set_num_threads(1)
layers = [nn.Linear(64, 2048), casc_core.CQReLU(q=8), nn.Linear(2048, 256), casc_core.CQReLU(q=8), nn.Linear(256, 4)]
snn = casc_core.convert(nn.Sequential(*layers).eval(), adapter="rnn")
silent, rows = torch.zeros(2048, 64), torch.randn(2048, 64) * 4
snn(rows[:1])
snn.memory_limit = 24 * 2**20
snn(silent)
print(risen(lambda: snn(rows)))
snn.memory_limit = 2 * 2**30
print(risen(lambda: snn(rows)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_run_stays_under_its_limit_after_a_silent_one_too():
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    told = subprocess.run([sys.executable, "-c", _PEAK], env=environment, capture_output=True, text=True, check=True)
    limited, free = map(float, told.stdout.split())
    assert limited < 24 < 32 < free


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
