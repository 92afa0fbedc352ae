"""Populations that read currents in levels: those of the currents written down."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from current_terms import currents, term, whole
from engines import COMPILED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.engine import kernels
from casc_core.engine.products.level_population import are_levels, level_population

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
TOTAL = 5


def in_levels(seed, **sizes):
    """A term of levels from 0 to TOTAL."""
    made = term(seed, steps=1, **sizes)
    levels = whole(torch.Generator().manual_seed(seed + 100), 0, TOTAL + 1, *made.train.shape)
    return dataclasses.replace(made, train=levels.to(torch.int8))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    terms=st.integers(1, 3),
    begins=st.sampled_from(("nothing", "channel", "full")),
    dims=st.sampled_from((1, 2)),
    instructions=st.sampled_from(COMPILED),
)
def test_levels_are_those_of_the_currents(seed, terms, begins, dims, instructions):
    size = (1, 5) if dims == 1 else (3, 4)
    own = currents(*(in_levels(seed + k, outputs=6, size=size, exponent=-6 + k) for k in range(terms)), dims=dims)
    generator, shape = torch.Generator().manual_seed(seed), own.size
    thresholds = whole(generator, 100, 700, 6).double() * 2.0**-8
    drawn = {"nothing": (), "channel": (1, 6, *[1] * dims), "full": shape}[begins]
    begin = whole(generator, -300, 600, *drawn).double() * 2.0**-8 * (begins != "nothing")
    with kernels.using(instructions):
        assert are_levels(own)
        found = level_population(own, -8, thresholds, begin, TOTAL).levels(own)
        received = own.tensor()[0].double() + begin
    expected = (received / thresholds.reshape(-1, *[1] * dims)).floor().clamp(0, TOTAL)
    assert torch.equal(found[0].double(), expected)
    with kernels.using(None):
        assert not are_levels(own)


def test_what_is_left_to_others():
    own, thresholds, begin = in_levels(1), torch.ones(5).double(), torch.zeros(()).double()
    with kernels.using(COMPILED[-1]):
        assert are_levels(currents(own))
        assert not are_levels(currents(term(1, steps=2))), "steps"
        assert not are_levels(currents(dataclasses.replace(own, train=own.train.short()))), "counts beyond int8"
        written = currents(own)
        written.tensor()
        assert not are_levels(written), "they have been written down"
        assert level_population(currents(own), -6, thresholds, begin, TOTAL) is not None
        assert level_population(currents(own), -5, thresholds, begin, TOTAL) is None, "a grid coarser than the weights'"
