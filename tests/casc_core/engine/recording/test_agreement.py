"""Counts against levels at the edges of their types, by kernels and without, against Python's own whole numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import casc_core
from casc_core import CQReLU
from casc_core.engine import kernels
from casc_core.engine.recording.agreement import Agreement, agreement
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.recording.spike_counts import LayerTrain
from casc_core.evidence.verify import compare_layer

LARGEST = 2**15 - 1


def by_hand(train, levels, q, awake, warm_up=0):
    more, fewer, error = [], [], []
    counts = [0] * len(levels)
    for step, wake in enumerate(awake):
        if step == warm_up:
            counts = [0] * len(levels)
        if step < len(train):
            counts = [count + spikes for count, spikes in zip(counts, train[step], strict=True)]
        off = [count * q - level * wake for count, level in zip(counts, levels, strict=True)]
        more.append(sum(each >= q for each in off))
        fewer.append(sum(each <= -q for each in off))
        error.append(sum(map(abs, off)))
    return more, fewer, error


def checked(train, levels, q, awake, warm_up=0):
    expected = by_hand(train.tolist(), levels.tolist(), q, awake, warm_up)
    for choice in kernels.all_instructions():
        with kernels.using(choice):
            assert [each.tolist() for each in agreement(train, levels, q, awake, warm_up)] == list(expected), choice


@pytest.mark.parametrize("spikes", [-128, -1, 0, 1, 127])
@pytest.mark.parametrize("neurons", [1, 1500])
@pytest.mark.parametrize("q", [1, 2**11, LARGEST])
def test_errors_are_summed_in_a_type_that_holds_them(spikes, neurons, q):
    """1,024 neurons that are each 2,048 spikes off, at q = 2,048, are off by 2**32 together."""
    train = torch.full((3, neurons), spikes, dtype=torch.int8)
    for level in (0, q):
        checked(train, torch.full((neurons,), level, dtype=torch.int16), q, [1, 2048, LARGEST, LARGEST])


@given(
    seed=st.integers(0, 2**31),
    q=st.integers(1, LARGEST),
    wake=st.integers(1, LARGEST),
    steps=st.integers(1, 6),
    peak=st.integers(1, 127),
    warm_up=st.sampled_from((0, 1, 2)),
    kind=st.sampled_from((torch.int8, torch.int16, torch.int32)),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_counts_against_any_levels(seed, q, wake, steps, peak, warm_up, kind):
    generator = torch.Generator().manual_seed(seed)
    train = torch.randint(-peak, peak + 1, (steps, 9), generator=generator).to(torch.int8)
    levels = torch.randint(0, min(q, torch.iinfo(kind).max) + 1, (9,), generator=generator).to(kind)
    checked(train, levels, q, [wake * (step + 1) // (steps + 1) for step in range(steps + 1)], warm_up)


@pytest.mark.parametrize("spikes", [1, 127])
def test_positions_are_compared_in_a_type_that_holds_them(spikes):
    levels = {"rnn": torch.full((2, 3, 4), LARGEST, dtype=torch.int16)}
    train = torch.full((520, 2, 3, 4), spikes, dtype=torch.int8)
    found = Agreement(levels, LARGEST, [LARGEST])
    found.by_position(LayerTrain("rnn", train, 1), (train != 0).sum(-1))
    assert found.positions["rnn"].differing.tolist() == [8.0, 8.0, 8.0]  # 520 (or 66,040) spikes for 32,767
    met = Agreement({"rnn": torch.full((2, 3, 4), 520, dtype=torch.int16)}, LARGEST, [LARGEST])
    met.by_position(LayerTrain("rnn", train, 1), (train != 0).sum(-1))
    assert met.positions["rnn"].differing.tolist() == ([0.0] * 3 if spikes == 1 else [8.0] * 3)


@pytest.mark.parametrize(("peak", "spikes", "steps"), [(1, 1, LARGEST), (127, 127, 300), (127, -128, 300)])
def test_counts_are_kept_in_a_type_that_holds_them(peak, spikes, steps):
    recorder = Recorder(keep_counts=True)
    recorder.layer(LayerTrain("a", torch.full((steps, 1, 2), spikes, dtype=torch.int8)), "a", peak)
    assert recorder.counts["a"].tolist() == [[spikes * steps] * 2]


@pytest.mark.parametrize("kind", [torch.int16, torch.int32])
def test_rates_of_the_most_levels_are_compared_in_a_type_that_holds_them(kind):
    counts = torch.tensor([0, LARGEST, LARGEST - 1], dtype=kind)
    spikes = casc_core.LayerSpikes(*[torch.zeros(1)] * 4, 0.0, 3, torch.ones(1))
    found = compare_layer("a", counts, torch.tensor([LARGEST, LARGEST, 0], dtype=torch.int16), LARGEST, LARGEST, spikes)
    assert (found.mismatches, found.largest) == (2, float(LARGEST))


@pytest.mark.parametrize("q", [127, 128, 1000])
def test_a_network_with_many_levels_is_exact_and_seen_to_be(q):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), CQReLU(q), nn.Linear(3, 3), CQReLU(q), nn.Linear(3, 2))
    snn, x = casc_core.convert(model), torch.rand(2, 2)
    report = casc_core.verify(snn, x)
    assert report.exact
    analysis = casc_core.analyse(snn, [x])
    assert analysis.exact
    assert int(report.silent_at.max()) > q // 2
