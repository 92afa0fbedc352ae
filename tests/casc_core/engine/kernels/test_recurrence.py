"""A whole recurrence in one call, against a slow loop, under every set of instructions of this machine."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrence_by_hand import recurrence_by_hand

from casc_core import CIF, IF, Continuous, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron, Sequences, loader

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
INSTRUCTIONS = st.sampled_from(COMPILED_OR_EMULATED)
NEURONS = st.sampled_from((IF(), CIF()))
SCHEDULES = st.sampled_from(
    (WakeSleep(4, 4), WakeSleep(1, 1), WakeSleep(2, 1, 3), WakeSleep(3, 2, 1), WakeSleep(2, 0, 2), Continuous())
)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=INSTRUCTIONS,
    neuron=NEURONS,
    schedule=SCHEDULES,
    hidden=st.sampled_from((1, 7, 33, 65)),
    batch=st.sampled_from((1, 3)),
    length=st.sampled_from((1, 2, 5)),
    arriving=st.sampled_from((0, 3)),
    coarse=st.sampled_from((1, 2, 16)),
    looked_up=st.booleans(),
    reverse=st.booleans(),
    ragged=st.booleans(),
    started=st.booleans(),
    starting=st.sampled_from((0, 2, 6)),
    positions_first=st.booleans(),
    cut=st.sampled_from((None, 1, 4)),
    guess=st.integers(0, 12),
)
def test_recurrence(
    seed, instructions, neuron, schedule, hidden, batch, length, arriving, coarse, looked_up, reverse, ragged,
    started, starting, positions_first, cut, guess,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    exponent, threshold = -5, 2**5
    weight = rng.integers(-30, 31, (hidden, hidden)) * coarse
    weight.flat[0] = coarse  # so that this is the weights' own grid
    drive = rng.integers(-20, 40, (batch, length, hidden))
    train = rng.integers(-25, 26, (arriving, batch, length, hidden))
    initial = rng.integers(-20, 21, (batch, hidden)) * started
    start = rng.integers(-25, 26, (starting, batch, hidden))
    lengths = rng.integers(1, length + 1, batch) if ragged else np.full(batch, length)
    awake = schedule.awake(schedule.last_wake or 5)
    expected = recurrence_by_hand(
        weight, drive, train, initial, lengths, reverse, threshold, neuron, awake, cut, 0, start
    )
    index, values = None, torch.tensor(drive * 2.0**exponent, dtype=torch.float32)
    if looked_up:
        order = torch.randperm(batch * length, generator=torch.Generator().manual_seed(seed % 1000))
        index = torch.empty(batch * length, dtype=torch.int64)
        index[order] = torch.arange(batch * length)
        index, values = index.reshape(batch, length), values.reshape(-1, hidden)[order].contiguous()
    sequences = Sequences(
        values,
        index,
        torch.tensor(train * 2.0**exponent),
        torch.tensor(initial, dtype=torch.int32) if started else None,
        torch.tensor(lengths) if ragged else None,
        reverse,
        start=torch.tensor(start * 2.0**exponent) if starting else None,
    )
    with kernels.using(instructions):
        packed = kernels.pack(torch.tensor(weight * 2.0**exponent), exponent, 1)
        assert packed.exponent == exponent + int(math.log2(coarse))
        result = kernels.recurrence(
            packed, sequences, exponent, threshold, 1e6, KernelNeuron.spiking(neuron, awake, cut),
            positions_first=positions_first, tally=True, guess=guess,
        )  # fmt: skip
    np.testing.assert_array_equal(result.train.numpy(), expected)
    np.testing.assert_array_equal(result.tallied[0].numpy(), np.maximum(expected, 0).sum(-1))
    np.testing.assert_array_equal(result.tallied[1].numpy(), np.maximum(-expected, 0).sum(-1))
    assert result.train.transpose(1, 2).is_contiguous() == positions_first or 1 in (batch, length) or not len(expected)


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9, 1e30])
def test_a_drive_out_of_range_is_noticed(instructions, value):
    drive = torch.zeros(2, 3, 4)
    drive[1, 2, 3] = value
    sequences = Sequences(drive, None, torch.zeros(0, 2, 3, 4), None, None, False)
    neuron = KernelNeuron.spiking(CIF(), [True] * 2, None)
    with kernels.using(instructions):
        packed = kernels.pack(torch.eye(4), 0, 1)
        for dtype in (torch.float32, torch.float64):
            given = Sequences(
                drive.to(dtype), *[getattr(sequences, name) for name in ("index", "train", "initial")], None, False
            )
            found = kernels.recurrence(packed, given, 0, 1, 1e6, neuron, positions_first=False, tally=False, guess=0)
            assert found is None


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("sample", [0, 250, 499])
def test_one_thread_out_of_range_is_enough(monkeypatch, openmp, sample):
    monkeypatch.setattr(loader._Team, "is_worth_it", lambda self: True)
    if not openmp:
        monkeypatch.setattr(loader, "_openmp", lambda: None)
    drive = torch.ones(500, 3, 40)
    drive[sample] = 1e9
    packed, neuron = kernels.pack(torch.eye(40), 0, 1), KernelNeuron.spiking(CIF(), [True] * 2, None)
    given = Sequences(drive, None, torch.zeros(0, 500, 3, 40), None, None, False)
    assert kernels.recurrence(packed, given, 0, 1, 1e6, neuron, positions_first=False, tally=False, guess=0) is None


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
@pytest.mark.parametrize("in_levels", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_sums_over_positions_are_those_of_the_spikes(instructions, in_levels, reverse):
    """Positions enough that sums are taken from int8 several times."""
    torch.manual_seed(0)
    length, hidden, levels = 600, 70, 127
    drive = torch.randint(-1, 4, (3, length, hidden)).float()
    lengths = torch.tensor([600, 1, 301])
    neuron = KernelNeuron.levels(levels) if in_levels else KernelNeuron.spiking(CIF(), [True] * 4, None)
    given = Sequences(drive, None, torch.zeros(0, 3, length, hidden), None, lengths, reverse)
    with kernels.using(instructions):
        packed = kernels.pack(torch.randint(-2, 3, (hidden, hidden)) / 16, -4, levels if in_levels else 1)
        train, sums = (
            kernels.recurrence(
                packed, given, -4, 16, 1e6, neuron, positions_first=False, tally=False, guess=0, summed=summed
            ).train
            for summed in (False, True)
        )  # fmt: skip
    assert train.max() == (levels if in_levels else 1)
    assert torch.equal(sums, train.sum(2, dtype=torch.int32))
