"""Sums of convolutions that are computed only where they are read: the same numbers by every way."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF, Exact, ExactnessError
from casc_core.engine import kernels
from casc_core.engine.kernels import Exact as Exactly
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.deferred_sum import MOST_TERMS, DeferredSum, Term, deferred
from casc_core.engine.products.exact_sums import largest_row
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.weight_cache import WeightCache
from casc_core.numerics import binade, on_grid
from casc_core.schedule import WakeSleep

COMPILED_ONLY = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def whole(generator, low, high, *shape):
    return torch.randint(low, high, shape, generator=generator)


def term(seed, outputs=5, channels=3, kernel=3, steps=4, exponent=-6, size=(4, 6), groups=1):
    generator = torch.Generator().manual_seed(seed)
    weight = whole(generator, -40, 41, outputs, channels // groups, kernel, kernel).double() * 2.0**exponent
    train = whole(generator, -1, 2, steps, 2, channels, *size).to(torch.int8)
    geometry = Geometry((kernel, kernel), padding=(kernel // 2,) * 4, groups=groups)
    reach = float(weight.abs().flatten(1).sum(1).max())
    return Term(Filter(f"conv{seed}", weight, exponent, geometry, reach, WeightCache()), train, 1.0)


def by_torch(one):
    geometry = one.filter.geometry
    result = F.conv2d(
        one.train.double().flatten(0, 1), one.filter.weight, padding=geometry.padding[0], groups=geometry.groups
    )
    return result.unflatten(0, one.train.shape[:2])


def currents(*terms, dims=2, peak=1):
    return DeferredSum(terms, dims, Exact(), peak)


def spiking(train, peak=1):
    """A train of spikes as a sum of its own."""
    return deferred(Exact(), peak, train, 1.0)


def test_one_term_is_its_convolution():
    own = currents(term(1))
    assert own.shape == (4, 2, 5, 4, 6)
    assert own.nbytes == own.terms[0].train.nbytes
    assert not own.is_computed
    assert torch.equal(own.tensor().double(), by_torch(own.terms[0]))
    assert own.is_computed
    assert own.tensor() is own.tensor()


@pytest.mark.parametrize("lengths", [(4, 2), (2, 4), (0, 3), (0, 0), (1, 1)])
def test_shorter_trains_are_followed_by_nothing(lengths):
    a, b = term(1, steps=lengths[0]), term(2, channels=4, kernel=1, steps=lengths[1])
    together = currents(a).plus(currents(b))
    assert together.shape == (max(lengths), 2, 5, 4, 6)
    expected = torch.zeros(together.shape, dtype=torch.float64)
    for one in (a, b):
        expected[: len(one.train)] += by_torch(one)
    assert torch.equal(together.tensor().double(), expected)
    assert len(together.terms) == max(1, sum(map(bool, lengths))), "what never spikes adds nothing"
    assert together.bound == sum(one.filter.reach for one in together.terms)


def test_a_train_of_spikes_is_a_term_of_its_own():
    a = term(1, outputs=3)
    spikes = whole(torch.Generator().manual_seed(9), -1, 2, 6, 2, 3, 4, 6).to(torch.int8)
    together = currents(a).plus(spiking(spikes))
    expected = spikes.double()
    expected[:4] += by_torch(a)
    assert torch.equal(together.tensor().double(), expected)


def test_what_is_better_added_as_tensors():
    own = currents(term(1, outputs=3))
    other = torch.zeros(4, 2, 3, 4, 6, dtype=torch.int8)
    assert deferred(Exact(), 1, other.int(), 1.0) is None, "no spikes"
    assert deferred(Exact(), 1, other[:, 0, 0, 0], 1.0) is None, "no channels"
    assert own.plus(spiking(other[..., :1])) is None, "they broadcast"
    assert own.plus(currents(term(2, outputs=5))) is None, "of another shape"
    growing = own
    for _ in range(MOST_TERMS - 1):
        growing = growing.plus(spiking(other))
    assert growing.plus(spiking(other)) is None, "too many terms"
    read = currents(term(3, outputs=3))
    read.tensor()
    assert own.plus(read) is None, "one has been computed"
    assert read.plus(spiking(other)) is None, "one has been computed"


def test_in_one_dimension_the_height_is_left_out():
    a = term(1, outputs=3, size=(1, 9))
    flat = Filter("line", a.filter.weight[:, :, :1], -6, Geometry((1, 3), padding=(0, 0, 1, 1)), 10.0, WeightCache())
    own = currents(Term(flat, a.train, 1.0), dims=1)
    assert own.shape == own.tensor().shape == (4, 2, 3, 9)
    together = currents(Term(flat, a.train, 1.0), dims=1).plus(spiking(torch.ones(4, 2, 3, 9).to(torch.int8)))
    assert torch.equal(together.tensor(), own.tensor() + 1)


def test_the_type_that_holds_the_sum():
    wide = term(1)
    assert currents(wide).tensor().dtype == torch.float32
    assert currents(wide, peak=2**20).tensor().dtype == torch.float64
    with pytest.raises(ExactnessError, match="conv1: sums may reach"):
        currents(wide, peak=2**50).tensor()
    finer = term(2, exponent=-30)
    together = currents(wide).plus(currents(finer))
    assert together.tensor().dtype == torch.float64
    assert torch.equal(together.tensor(), by_torch(wide) + by_torch(finer))


@COMPILED_ONLY
@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    terms=st.integers(1, 4),
    driven=st.sampled_from(("none", "channel", "full")),
    alike=st.booleans(),
    dims=st.sampled_from((1, 2)),
    instructions=st.sampled_from(COMPILED),
)
def test_the_population_behind_them_is_that_behind_their_tensor(seed, terms, driven, alike, dims, instructions):
    size = (1, 5) if dims == 1 else (3, 4)
    own = currents(
        *(
            term(seed + k, outputs=6, steps=4 - k, size=size, groups=3 if k == 1 else 1, exponent=-6 + k)
            for k in range(terms)
        ),
        dims=dims,
    )  # fmt: skip
    generator, drive = torch.Generator().manual_seed(seed), None
    shape = own.shape[1:]
    if driven != "none":
        drawn = (1, 6, *[1] * dims) if driven == "channel" else shape
        drive = (whole(generator, -300, 600, *drawn).double() * 2.0**-8).expand(shape)
    threshold = 1.25 if alike else (whole(generator, 100, 700, 6, *[1] * dims).double() * 2.0**-8)
    neuron = KernelNeuron.spiking(CIF(), WakeSleep(4, 4).awake(4), None)
    with kernels.using(instructions):
        found = own.population(drive, -8, threshold, neuron, 0)
        assert not own.is_computed
        expected = kernels.scan(own.tensor().double(), drive, threshold, torch.float64, neuron, 0)
    assert found.shape[1:] == shape
    assert torch.equal(found, expected)
    with kernels.using(None):
        assert own.population(drive, -8, 1.25, neuron, 0) is None


@COMPILED_ONLY
def test_lists_are_tried_where_tables_have_no_room(monkeypatch):
    neuron = KernelNeuron.spiking(CIF(), WakeSleep(4, 4).awake(4), None)
    one = term(1, channels=16, outputs=16, steps=8, size=(32, 32))
    asked = []

    def packed(self, peak, blocks, *others):
        asked.append(blocks.tabled)
        return None if blocks.tabled else pack(self, peak, blocks, *others)

    pack = Filter.packed
    with kernels.using(COMPILED[-1]):
        expected = currents(one).population(None, -6, 1.0, neuron, 0)
        monkeypatch.setattr(Filter, "packed", packed)
        found = currents(one).population(None, -6, 1.0, neuron, 0)
    assert asked == [True, False]
    assert torch.equal(found, expected)


@COMPILED_ONLY
def test_a_row_may_be_longer_than_lists_can_be():
    one = term(1, outputs=257, channels=64, kernel=1, steps=1, size=(1, 1))
    one = replace(one, train=one.train.expand(1, 2, 64, 1, 200_000))
    neuron = KernelNeuron.spiking(CIF(), [True], None)
    with kernels.using(COMPILED[-1]):
        assert currents(one).population(None, -6, 1.0, neuron, 0) is None


@COMPILED_ONLY
@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize("outputs", [16, 40])
def test_channels_of_very_different_weights_are_rounded_each_finely_enough(driven, outputs):
    generator = torch.Generator().manual_seed(outputs)
    one = term(3, outputs=outputs, channels=40, steps=6)
    sizes = 2.0 ** whole(generator, -2, 12, outputs).double()
    weight = on_grid(torch.randn(one.filter.weight.shape, generator=generator) * sizes[:, None, None, None] / 8, -28)
    one = replace(one, filter=Filter("conv", weight, -28, one.filter.geometry, largest_row(weight), WeightCache()))
    drive = on_grid(torch.randn(outputs, generator=generator) * sizes, -28)[:, None, None].expand(2, outputs, 4, 6)
    awake = WakeSleep(4, 4).awake(4)
    received = torch.cat([by_torch(one), torch.zeros(6, 2, outputs, 4, 6)])
    received[:4] += drive if driven else 0.0
    caps = [min(step + 1, 4) for step in range(len(received))]
    expected = CIF().run(received.numpy(), caps, np.ones((outputs, 1, 1)))[0]
    margins = []
    with kernels.using(COMPILED[-1]), patch.object(kernels, "Exact", lambda *a: margins.append(a[2]) or Exactly(*a)):
        units = binade(5 * (float(drive.abs().max()) + one.filter.reach + 1)) - kernels.SUM_BITS
        neuron = KernelNeuron.spiking(CIF(), awake, None)
        found = currents(one).population(drive if driven else None, -28, 1.0, neuron, 0, None, units)
    assert margins, "nothing was rounded"
    np.testing.assert_array_equal(found, expected[: len(found)])
    assert not expected[len(found) :].any()


@COMPILED_ONLY
def test_what_the_kernel_cannot_do_is_left_to_others():
    neuron = KernelNeuron.spiking(CIF(), [True], None)
    own = term(1)
    with kernels.using(COMPILED[-1]):
        assert currents(own).population(None, -6, 1.0, neuron, 0) is not None
        assert currents(own).population(None, -5, 1.0, neuron, 0) is None, "a grid coarser than the weights'"
        counted = Term(own.filter, own.train.int(), 1.0)
        assert currents(counted).population(None, -6, 1.0, neuron, 0) is None, "no spikes"
        assert currents(own, peak=1000).population(None, -6, 1.0, neuron, 0) is None, "counts beyond int8"
        assert currents(term(1, exponent=30)).population(None, -20, 1.0, neuron, 0) is None, "grids too far apart"
