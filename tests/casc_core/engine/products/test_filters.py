"""Filters of spikes: whatever factors, moves, pools and maps are taken in, the currents are those of their tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import Exact
from casc_core.engine import kernels
from casc_core.engine.products.deferred_sum import deferred, filtered, joined
from casc_core.engine.products.filters import Filter, by_channel, grid_of, identity
from casc_core.engine.products.geometry import Geometry, convolve
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.engine.signal import Signal, over_steps

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
SEEDS = st.integers(0, 999)


def numbers(generator, *shape):
    """Other than zero, of few bits."""
    return (torch.randint(1, 40, shape, generator=generator) * 2.0**-5).double() * (
        torch.randint(0, 2, shape, generator=generator) * 2 - 1
    )


def spikes(generator, *shape):
    return torch.randint(-1, 2, shape, generator=generator).to(torch.int8)


def scaled(generator, *size, channels=4, alike=False, steps=3):
    """Spikes times a factor for each channel: the sum, and its tensor."""
    train = spikes(generator, steps, 2, channels, *size)
    factor = numbers(generator, 1 if alike else channels, *[1] * len(size))
    own = deferred(Exact(), 1, train, 1.0).times(factor)
    return own, train.double() * factor


def own_filter(generator, outputs, inputs, groups=1, kernel=3):
    weight = numbers(generator, outputs, inputs // groups, kernel, kernel)
    geometry = Geometry((kernel, kernel), padding=(kernel // 2,) * 4, groups=groups)
    reach = float(weight.abs().flatten(1).sum(1).max())
    return Filter("conv", weight, grid_of(weight), geometry, reach, WeightCache())


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=5), st.integers(-30, 30))
def test_the_coarsest_grid(values, exponent):
    numbers = torch.tensor([value * 2.0**exponent for value in values], dtype=torch.float64)
    grid = grid_of(numbers)
    units = numbers * 2.0**-grid
    assert torch.equal(units, units.round())
    assert not numbers.any() or bool((units % 2).any())


@given(SEEDS)
def test_factors_before_and_behind_a_convolution(seed):
    generator = torch.Generator().manual_seed(seed)
    own = own_filter(generator, 6, 4, groups=2)
    x = spikes(generator, 2, 4, 5, 5).double()
    before, behind = numbers(generator, 4), numbers(generator, 6)
    taken = own.behind(before).times(behind)
    expected = convolve(x * before[:, None, None], own.weight, own.geometry) * behind[:, None, None]
    assert torch.equal(convolve(x, taken.weight, taken.geometry), expected)
    assert taken.exponent == grid_of(taken.weight)
    assert taken.reach == float(taken.weight.abs().flatten(1).sum(1).max())
    assert own.behind(before) is own.behind(before.clone()), "it is kept"
    assert own.times(torch.ones(6).double()) is own
    assert own.factors is None


def test_products_that_float64_does_not_hold():
    fine = torch.tensor([1.0 + 2.0**-40] * 3, dtype=torch.float64)
    assert by_channel(fine).times(fine) is None
    assert by_channel(fine).times(fine.round()) is not None
    train = torch.ones(2, 1, 3, 4, 4, dtype=torch.int8)
    assert deferred(Exact(), 1, train, 1.0).times(fine[:, None, None]).times(fine[:, None, None]) is None


def test_each_channel_to_itself():
    assert identity(3) is identity(3)
    assert torch.equal(identity(3).factors, torch.ones(3).double())
    assert by_channel(torch.tensor([0.375, 1.0]).double()).exponent == -3


MOVES = {
    "every second": lambda x: x[:, :, ::2, ::2],
    "more channels": lambda x: F.pad(x, [0, 0, 0, 0, 1, 2]),
    "around": lambda x: F.pad(x, [1, 2, 0, 1]),
    "some channels": lambda x: x[:, 1:3],
    "turned": lambda x: x.flip(1).transpose(2, 3),
    "flattened": lambda x: x.flatten(1),
    "repeated": lambda x: x.repeat_interleave(2, 3),
    "shuffled": lambda x: x.reshape(2, 2, 2, 4, 6).transpose(1, 2).reshape(2, 4, 4, 6),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("alike", [False, True])
def test_what_moves_entries_moves_spikes_and_factors(move, alike):
    own, tensor = scaled(torch.Generator().manual_seed(5), 4, 6, alike=alike)
    moved = own.moved(MOVES[move], by_sample=False)
    expected = over_steps(MOVES[move], tensor)
    assert not moved.is_computed
    assert moved.shape == expected.shape
    assert torch.equal(moved.tensor(), expected)
    again = own.moved(MOVES[move], by_sample=False).times(torch.tensor(0.5)).moved(lambda x: x.flip(0), by_sample=False)
    assert torch.equal(again.tensor(), expected.flip(1) / 2)


def test_channels_of_several_factors_do_not_become_one():
    own, _ = scaled(torch.Generator().manual_seed(5), 4, 6)
    assert own.moved(torch.ravel, by_sample=False) is None, "no dimension of channels is left"
    assert own.moved(lambda x: x.transpose(1, 2), by_sample=False) is None
    nothing = own.times(torch.tensor([1.0, 0.0, 2.0, 1.0])[:, None, None])
    assert nothing.moved(MOVES["every second"], by_sample=False) is None, "zeros are what is filled in"


@settings(max_examples=40)
@given(seed=SEEDS, dims=st.sampled_from((0, 1, 2)), peak=st.sampled_from((1, 8)))
def test_any_row_of_them_is_that_of_tensors(seed, dims, peak):
    generator = torch.Generator().manual_seed(seed)
    size = (4, 6)[2 - dims :]
    own, tensor = scaled(generator, *size)
    other, more = scaled(generator, *size, steps=5)
    together = own.plus(other)
    expected = more.clone()
    expected[:3] += tensor
    assert torch.equal(together.tensor(), expected)
    fresh = own.plus(other)
    assert torch.equal(fresh.total(), expected.sum(0))
    joint = joined([own, other])
    assert torch.equal(joint.tensor(), torch.cat([F.pad(tensor, [0] * 2 * (dims + 2) + [0, 2]), more], 2))
    if dims == 2:
        read = own_filter(generator, 6, 4)
        signal = Signal(own.plus(other), None, None, 99.0)
        currents = filtered(read, Exact(), peak, signal, dims)
        assert [term.train.dtype for term in currents.terms] == [torch.int8, torch.int8]
        assert not signal.lazy_train.is_computed
        result = convolve(expected.flatten(0, 1), read.weight, read.geometry).unflatten(0, expected.shape[:2])
        assert torch.equal(currents.tensor().double(), result)

        def pool(train, bound):
            return F.avg_pool2d(train.double().flatten(0, 1), 2, divisor_override=1).unflatten(0, train.shape[:2])

        pooled = own.plus(other).pooled(pool, 4.0)
        assert torch.equal(pooled.tensor(), pool(expected, 1.0))
        assert pooled.bound == 4 * own.plus(other).bound


def test_what_is_computed_already_stays_a_tensor():
    own, tensor = scaled(torch.Generator().manual_seed(1), 4, 6)
    assert torch.equal(own.tensor(), tensor)
    assert own.factors is None
    assert own.times(torch.tensor(2.0)) is None
    assert own.moved(MOVES["flattened"], by_sample=True) is None
    assert own.pooled(lambda train, bound: train, 1.0) is None
    assert joined([own, own]) is None
    signal = Signal(own, None, None, 1.0)
    assert filtered(own_filter(torch.Generator(), 6, 4), Exact(), 1, signal, 2).terms[0].train.dtype == torch.float64


def test_other_factors_are_met_by_tensors():
    train = spikes(torch.Generator().manual_seed(1), 3, 2, 4, 4, 6)
    own = deferred(Exact(), 1, train, 1.0)
    assert own.times(torch.ones(4, 6)) is None, "by position"
    assert own.times(torch.ones(2, 1, 1, 1)) is None, "by sample"
    assert own.times(torch.full((2, 4, 4, 6), 2.0)) is None, "by entry"
    assert own.times(torch.tensor(2.0).expand(2, 4, 4, 6)).tensor().equal(train.double() * 2)
    with kernels.using(None):
        assert own.times(torch.tensor(2.0)) is None, "no kernel would read it"
