"""Powers of two for the channels of a population."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from casc_core.engine.products.even_scale import even_scale

SIZES = st.lists(st.floats(2.0**-20, 2.0**20), min_size=1, max_size=6)


@given(currents=SIZES, threshold=st.floats(2.0**-10, 2.0**10), most=st.integers(-3, 60))
def test_reaches_are_within_a_factor_of_two(currents, threshold, most):
    arriving, begins = torch.tensor(currents).double(), torch.full((len(currents),), 0.5).double()
    thresholds = torch.full_like(arriving, threshold)
    scale = even_scale(arriving, begins, thresholds, most)
    reach, powers = arriving + begins + thresholds, torch.log2(scale.factors)
    assert torch.equal(powers, powers.round())
    assert float(powers.max()) <= 0
    assert -float(powers.min()) == scale.finer <= max(0, most)
    evened = reach * scale.factors
    assert float(evened.max()) <= float(reach.max()) * 2.0**-scale.narrows
    free = powers > -most if most > 0 else powers > 0
    assert bool((evened[free] < 2 * reach.min()).all())


def test_what_is_not_known_by_channel_leaves_channels_alone():
    scale = even_scale(torch.tensor([1.0, 100.0]), None, torch.ones(2), 50)
    assert scale.factors.tolist() == [1.0, 1.0]
    assert (scale.finer, scale.narrows) == (0, 0)


def test_a_threshold_that_hardly_matters_is_no_measure():
    sizes = [even_scale(torch.full((2,), 64.0), None, torch.tensor([1.0, low]), 0).size for low in (1.0, 2.0**-9)]
    assert sizes == [2.0, 2.0]
