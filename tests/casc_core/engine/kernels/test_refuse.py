"""The compiled kernels are handed pointers: their entries refuse whatever would let them read or write past an end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from engines import convolution

from casc_core import CIF
from casc_core.engine import kernels
from casc_core.engine.kernels import (
    Blocks,
    Exact,
    ExactCurrents,
    KernelNeuron,
    Margin,
    Reads,
    Rounding,
    Rounds,
    Sequences,
    SplitWeights,
)
from casc_core.engine.products.geometry import Geometry

pytestmark = pytest.mark.skipif(not kernels.ready(), reason="there are no compiled kernels")
NEURON = KernelNeuron.spiking(CIF(), [True, True], None)
SMALL = torch.ones(5, 5)


def spikes(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int8)


def recur(neuron=NEURON, threshold=1, exponent=0, weight=SMALL, **changes):
    packed = kernels.pack(weight, 0, 1)
    inputs = Sequences(torch.ones(2, 3, 5), None, torch.ones(2, 2, 3, 5), None, None, False)
    return kernels.recurrence(
        packed,
        replace(inputs, **changes),
        exponent,
        threshold,
        1e6,
        neuron,
        positions_first=False,
        tally=False,
        guess=0,
    )


TABLE, INDEX = torch.ones(4, 5), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": torch.ones(5, 4)},
        {"weight": torch.ones(4, 4)},
        {"weight": torch.ones(6, 6)},
        {"threshold": 0},
        {"threshold": 2**31},
        {"exponent": 1},
        {"exponent": -31},
        {"train": torch.ones(2, 2, 3, 4)},
        {"train": torch.ones(2, 2, 3)},
        {"train": torch.ones(2, 2, 3, 5, dtype=torch.int32)},
        {"train": torch.ones(2, 2, 4, 5)},
        {"drive": torch.ones(2, 3, 4)},
        {"drive": torch.ones(1, 3, 5)},
        {"drive": torch.ones(2, 3, 5).half()},
        {"drive": TABLE, "index": INDEX + 4},
        {"drive": TABLE, "index": INDEX - 1},
        {"drive": TABLE, "index": INDEX.int()},
        {"drive": TABLE, "index": INDEX[:1]},
        {"drive": torch.ones(4, 3), "index": INDEX},
        {"initial": torch.ones(2, 4, dtype=torch.int32)},
        {"initial": torch.ones(2, 5)},
        {"initial": torch.ones(5, 2, dtype=torch.int32).T},
        {"potential": torch.ones(4, dtype=torch.int32)},
        {"lengths": torch.tensor([4, 1])},
        {"lengths": torch.tensor([0, 1])},
        {"lengths": torch.tensor([1])},
        {"lengths": torch.tensor([1, 1], dtype=torch.int32)},
        {"spikes": spikes(2, 2, 4)},
        {"spikes": spikes(2, 1, 5)},
        {"spikes": torch.zeros(2, 2, 5)},
        {"spikes": spikes(2, 2, 4), "weight": torch.ones(5, 4)},  # several positions
        {"threshold": torch.tensor([1, 1, 1, 1, 0], dtype=torch.int32)},
        {"threshold": torch.ones(4, dtype=torch.int32)},
    ],
)
def test_a_recurrence(wrong):
    assert recur() is not None
    assert recur(drive=TABLE, index=INDEX, lengths=torch.tensor([3, 1])) is not None
    assert recur(spikes=spikes(4, 2, 5), threshold=torch.arange(1, 6, dtype=torch.int32)) is not None
    with pytest.raises(ValueError, match=r"a compiled kernel is called with what does not fit|must be|must lie"):
        recur(**wrong)


def convolve(train=None, shape=(2, 4, 6, 6), drive=None, potential=None, threshold=1, exponent=0, blocks=None):
    thresholds = torch.full((4,), threshold, dtype=torch.int32) if isinstance(threshold, int) else threshold
    geometry = Geometry((3, 3), padding=(1, 1, 1, 1))
    own = Blocks.of(4, 1, 18)
    packed = kernels.pack_convolution(torch.ones(4, 2, 3, 3), geometry, 0, 1, own)
    train = spikes(3, 2, 2, 6, 6) if train is None else train
    return convolution([(packed, train)], blocks or own, shape, drive, exponent, thresholds, NEURON, 0, potential)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": spikes(3, 1, 2, 6, 6)},
        {"train": spikes(3, 2, 1, 6, 6)},
        {"train": spikes(3, 2, 2, 5, 6)},
        {"train": spikes(3, 2, 2, 6, 6).float()},
        {"train": spikes(3, 2, 2, 36)},
        {"shape": (2, 3, 6, 6)},
        {"shape": (2, 4, 7, 6)},
        {"shape": (2, 0, 6, 6)},
        {"drive": torch.zeros(2, 4, 6, 5, dtype=torch.int32)},
        {"drive": torch.zeros(2, 4, 6, 6)},
        {"potential": torch.zeros(4, dtype=torch.int32)},
        {"threshold": 0},
        {"threshold": torch.tensor([1, 1, 1, -1], dtype=torch.int32)},
        {"threshold": torch.ones(3, dtype=torch.int32)},
        {"threshold": torch.ones(4)},
        {"exponent": 1},
        {"blocks": Blocks.of(64, 1, 18)},
        {"blocks": Blocks(32, torch.tensor([-1]), torch.tensor([4]))},
        {"blocks": Blocks(64, torch.tensor([0]), torch.tensor([4]))},
    ],
)
def test_a_convolution(wrong):
    assert convolve().shape[1:] == (2, 4, 6, 6)
    with pytest.raises(ValueError, match=r"a compiled kernel is called with what does not fit|must be"):
        convolve(**wrong)


ROUNDING = Rounding(0, -8, 4)
MARGIN = Margin(3, 2)


def recur_exactly(weight=SMALL / 3, packed_by=ROUNDING, inputs=(), margin=MARGIN, threshold=256.0, **exactly):
    """As `recur`, of weights of which the rounding has left something out."""
    packed = kernels.pack((weight * 256).round() / 256, -8 if packed_by else 0, 1, packed_by)
    potential, initial = torch.zeros(5, dtype=torch.int32), torch.ones(2, 5, dtype=torch.int32)
    given = Sequences(torch.ones(2, 3, 5), None, torch.ones(2, 2, 3, 5), initial, None, False, potential)
    exact = {
        "exponent": -8, "threshold": threshold, "margin": margin, "drive": torch.ones(2, 3, 5),
        "initial": torch.ones(2, 5).double(), "potential": torch.zeros(5).double(),
    } | exactly  # fmt: skip
    return kernels.recurrence(
        packed, replace(given, **dict(inputs)), 0, 1, 1e6, NEURON, positions_first=False, tally=False, guess=0,
        exact=ExactCurrents(**exact),
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"exponent": -7},
        {"threshold": 0.0},
        {"margin": Margin(0, 2)},
        {"margin": Margin(3, -1)},
        {"margin": Margin(2**30, 2)},
        {"drive": None},
        {"drive": torch.ones(2, 3, 4)},
        {"drive": torch.ones(2, 3, 5).half()},
        {"drive": torch.ones(2, 5, 3).mT},
        {"initial": None},
        {"initial": torch.ones(2, 5)},
        {"initial": torch.ones(1, 5).double()},
        {"potential": torch.zeros(4).double()},
        {"potential": None},
        {"inputs": {"potential": None}},
        {"inputs": {"start": torch.ones(2, 2, 5)}},
        {"inputs": {"start": torch.ones(2, 3, 5).double()}},
        {"inputs": {"drive": None}},
    ],
)
def test_a_recurrence_of_rounded_weights(wrong):
    assert recur_exactly() is not None
    with pytest.raises((ValueError, RuntimeError), match=r"does not fit|must be|must lie"):
        recur_exactly(**wrong)


def test_rounded_numbers_need_those_that_they_were_rounded_from():
    exact = ExactCurrents(0, 1.0, MARGIN, torch.ones(2, 3, 5), None, None)
    packed = kernels.pack(SMALL, 0, 1)
    given = Sequences(torch.ones(2, 3, 5), None, torch.ones(2, 2, 3, 5), None, None, False)
    with pytest.raises((ValueError, AssertionError)):
        kernels.recurrence(packed, given, 0, 1, 1e6, NEURON, positions_first=False, tally=False, guess=0, exact=exact)
    geometry = Geometry((3, 3), padding=(1, 1, 1, 1))
    blocks = Blocks.of(4, 1, 18)
    packed = kernels.pack_convolution(torch.ones(4, 2, 3, 3), geometry, 0, 1, blocks)
    with pytest.raises(ValueError, match="without those that they were rounded from"):
        convolution(
            [(packed, spikes(3, 2, 2, 6, 6))], blocks, (2, 4, 6, 6), None, 0, torch.ones(4).int(), NEURON, 0, None,
            Exact(0, torch.ones(4).double(), MARGIN, None, None),
        )  # fmt: skip


def convolve_exactly(margin=MARGIN, charged=True, **exactly):
    geometry = Geometry((3, 3), padding=(1, 1, 1, 1))
    blocks, shape = Blocks.of(4, 1, 18), (2, 4, 6, 6)
    packed = kernels.pack_convolution(torch.full((4, 2, 3, 3), 85 / 256), geometry, -8, 1, blocks, ROUNDING)
    drive = torch.zeros(shape, dtype=torch.int32)
    exact = {"exponent": -8, "margin": margin, "drive": drive.double(), "potential": drive.double()}
    exact["thresholds"] = torch.full((4,), 256.0).double()
    return convolution(
        [(packed, spikes(3, 2, 2, 6, 6))], blocks, shape, drive, 0, torch.ones(4).int(), NEURON, 0,
        drive if charged else None, Exact(**exact | exactly),
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"exponent": -7},
        {"thresholds": -torch.ones(4).double()},
        {"thresholds": torch.ones(4)},
        {"thresholds": torch.ones(3).double()},
        {"margin": Margin(0, 2)},
        {"margin": Margin(3, -1)},
        {"margin": Margin(2**30, 2)},
        {"drive": None},
        {"drive": torch.zeros(2, 4, 6, 6)},
        {"drive": torch.zeros(2, 6, 6, 4).double().movedim(3, 1)},
        {"potential": torch.zeros(2, 4, 6, 5).double()},
        {"potential": None},
        {"charged": False},
    ],
)
def test_a_convolution_of_rounded_weights(wrong):
    assert convolve_exactly().shape[1:] == (2, 4, 6, 6)
    with pytest.raises((ValueError, RuntimeError), match=r"does not fit|must be"):
        convolve_exactly(**wrong)


def rounded_sums(sums=None, bias=None, error=0.01, rest_error=0.0, room=9, high=None, low=None, **changes):
    reads = Reads(torch.ones(2, 3, 5).double(), 1, 3, (15, 0, 5, 0), 1, torch.arange(5))
    sums = torch.ones(2, 3, 4).double() if sums is None else sums
    weights = SplitWeights(*(torch.ones(4, 5).double() if part is None else part for part in (high, low)))
    rounds = Rounds(-3, bias, error, weights, -20, rest_error, math.inf, room)
    return kernels.round_sums(sums, replace(reads, **changes), rounds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sums": torch.ones(2, 3, 4)},
        {"sums": torch.ones(2, 4, 3).double().mT},
        {"sums": torch.ones(0, 3, 4).double()},
        {"sums": torch.ones(3, 3, 4).double()},
        {"bias": torch.ones(3).double()},
        {"bias": torch.ones(4)},
        {"error": -0.1},
        {"error": float("nan")},
        {"rest_error": -1.0},
        {"room": -1},
        {"high": torch.ones(4, 4).double()},
        {"high": torch.ones(3, 5).double()},
        {"low": torch.ones(4, 5)},
        {"low": torch.ones(5, 4).double().T},
        {"values": torch.ones(2, 3, 5)},
        {"values": torch.ones(2, 3, 4).double()},
        {"height": 0},
        {"width": -3},
        {"groups": 0},
        {"strides": (15, 0, -5, 0)},
        {"strides": (16, 0, 5, 0)},
        {"strides": (15, 0, 6, 0)},
        {"groups": 2, "strides": (15, 0, 5, 1)},
        {"offsets": torch.arange(5, dtype=torch.int32)},
        {"offsets": torch.arange(5) - 1},
        {"offsets": torch.tensor([0, 1, -1, 3, 4])},
        {"offsets": torch.arange(5) + 1},
        {"offsets": torch.arange(4)},
    ],
)
def test_sums_that_are_rounded(wrong):
    assert rounded_sums() is not None
    with pytest.raises(ValueError, match=r"what does not fit|must be|must lie"):
        rounded_sums(**wrong)


def test_the_others():
    packed = kernels.pack(torch.ones(3, 5), 0, 1)
    for wrong in (
        lambda: kernels.rows(packed, spikes(2, 4), torch.float32),
        lambda: kernels.rows(packed, spikes(2, 5).float(), torch.float32),
        lambda: kernels.count_rows(packed, spikes(2, 3, 6), 1),
        lambda: kernels.count_rows(packed, spikes(2, 3, 5), 0),
        lambda: kernels.sum_middle(spikes(2, 3), 2),
        lambda: kernels.sum_middle(spikes(2, 3).T, 0),
        lambda: kernels.sum_middle(spikes(2, 3).int(), 0),
        lambda: kernels.tally(spikes(2, 3).int()),
        lambda: kernels.agreement(spikes(2, 3), torch.zeros(4, dtype=torch.int16), 2, [1, 2]),
        lambda: kernels.agreement(spikes(2, 3).float(), torch.zeros(3, dtype=torch.int16), 2, [1, 2]),
        lambda: kernels.levels(torch.ones(3, dtype=torch.int32), None, 1.0, 2),
        lambda: kernels.levels(torch.ones(3), None, 1.0, 200),
        lambda: replace(NEURON, total=2**31),
        lambda: replace(NEURON, most=-1),
    ):
        with pytest.raises((ValueError, IndexError)):
            wrong()
    for shape in ((4,), (3, 2)):  # a drive or a potential that does not fit the neurons
        with pytest.raises(RuntimeError):
            kernels.scan(torch.ones(2, 3), torch.ones(shape), 1.0, torch.float32, NEURON, 0)
        with pytest.raises(RuntimeError):
            kernels.scan(torch.ones(2, 3), None, 1.0, torch.float32, NEURON, 0, torch.ones(shape))
