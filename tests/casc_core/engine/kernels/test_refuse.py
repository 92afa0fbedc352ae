"""The compiled kernels are handed pointers: their entries refuse whatever would let them read or write past an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from casc_core import CIF
from casc_core.engine import kernels
from casc_core.engine.kernels import Blocks, KernelNeuron, Sequences
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
    ],
)
def test_a_recurrence(wrong):
    assert recur() is not None
    assert recur(drive=TABLE, index=INDEX, lengths=torch.tensor([3, 1])) is not None
    with pytest.raises(ValueError, match=r"a compiled kernel is called with what does not fit|must be|must lie"):
        recur(**wrong)


def convolve(train=None, shape=(2, 4, 6, 6), drive=None, potential=None, threshold=1, exponent=0, blocks=None):
    geometry = Geometry((3, 3), padding=(1, 1, 1, 1))
    own = Blocks.of(4, 1, 18)
    packed = kernels.pack_convolution(torch.ones(4, 2, 3, 3), geometry, 0, 1, own)
    train = spikes(3, 2, 2, 6, 6) if train is None else train
    return kernels.convolution(
        [(packed, train)], blocks or own, shape, drive, exponent, threshold, NEURON, 0, potential
    )


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
        lambda: KernelNeuron(torch.ones(2, dtype=torch.uint8), torch.ones(3, dtype=torch.int32), 2, 9, True, False),
        lambda: KernelNeuron(torch.ones(2, dtype=torch.int8), torch.ones(2, dtype=torch.int32), 2, 9, True, False),
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
