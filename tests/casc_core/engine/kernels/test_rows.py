"""Products of spike trains by rows of weights, against plain NumPy, under every set of instructions of this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spike_trains import spike_trains

from casc_core.engine import kernels

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
SIZES = st.sampled_from((1, 2, 7, 31, 32, 33, 64, 65, 300, 1023))
INSTRUCTIONS = st.sampled_from(COMPILED_OR_EMULATED)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=INSTRUCTIONS,
    inputs=SIZES,
    outputs=SIZES,
    largest=st.sampled_from((1, 20, 127, 2**15 - 1, 2**15, 2**20)),
    peak=st.sampled_from((1, 2, 127)),
    exponent=st.sampled_from((-16, 0, 3)),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
def test_rows_are_the_integer_product(seed, instructions, inputs, outputs, largest, peak, exponent, dtype):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-largest, largest + 1, (outputs, inputs))
    weight.flat[0], weight.flat[-1] = largest, -largest
    train = spike_trains(rng, 3, 2, inputs, peak=peak)
    expected = np.einsum("tbi,oi->tbo", train.astype(np.int64), weight)
    with kernels.using(instructions):
        packed = kernels.pack(torch.tensor(weight * 2.0**exponent), exponent, peak)
        if packed is None:
            assert 2 * np.abs(weight).sum(1).max() * peak > 2**31 - 1
            return
        assume(dtype == torch.float64 or np.abs(weight).sum(1).max() * peak < 2**24)
        found = kernels.rows(packed, torch.tensor(train), dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), expected * 2.0**exponent)


def test_each_kind_of_weights_is_reached():
    kinds = {kernels.pack(torch.full((2, 3), size), 0, 1).kind for size in (100.0, 20_001.0, 70_001.0)}
    assert len(kinds) == 3
    assert kernels.pack(torch.tensor([[0.5]]), 0, 1) is None, "off the grid"
    assert kernels.pack(torch.tensor([[1.0]]), 0, 128) is None, "counts beyond int8"


def test_rounded_weights_whose_next_bits_might_not_fit_are_refused():
    weight = torch.full((1, 1), 0.25)
    assert kernels.pack(weight, -2, 1, kernels.Rounding(0, -2, 2**15 - 1)) is not None
    assert kernels.pack(weight, -2, 1, kernels.Rounding(0, -2, 2**15)) is None, "counts beyond int16"
    assert kernels.pack(weight.expand(1, 2**16), -2, 1, kernels.Rounding(0, -2, 2**15 - 1)) is None
    assert kernels.pack(weight.expand(1, 2**14), -2, 1, kernels.Rounding(0, -2, 2**15 - 1)) is not None


@given(seed=st.integers(0, 2**32 - 1), instructions=INSTRUCTIONS, inputs=SIZES, by=st.integers(1, 3))
def test_count_of_rows(seed, instructions, inputs, by):
    rng = np.random.default_rng(seed)
    train = spike_trains(rng, 4, 5, inputs, peak=1)
    expected = []
    for step, now in enumerate(train):
        looked_at = now[::by]
        ways = [(looked_at != 0).sum(1), (looked_at != 1).sum(1)]
        if step:
            ways.append((looked_at != train[step - 1][::by]).sum(1))
        expected.append(int(np.minimum.reduce(ways).sum()))
    with kernels.using(instructions):
        packed = kernels.pack(torch.ones(2, inputs), 0, 1)
        assert kernels.count_rows(packed, torch.tensor(train), by) == expected
