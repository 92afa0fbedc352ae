"""Sums of convolutions that are computed only where they are read: the same numbers by every way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from current_terms import currents, term, whole

from casc_core import Exact, ExactnessError
from casc_core.engine.products.deferred_sum import MOST_TERMS, deferred
from casc_core.engine.products.filters import Filter
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.term import Term
from casc_core.engine.products.weight_cache import WeightCache


def by_torch(one):
    geometry = one.filter.geometry
    result = F.conv2d(
        one.train.double().flatten(0, 1), one.filter.weight, padding=geometry.padding[0], groups=geometry.groups
    )
    return result.unflatten(0, one.train.shape[:2])


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
