"""Products of real-valued input: the same bits in whatever order they are summed."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casc_core import Exact, ExactnessError
from casc_core.engine.products.exact_sums import exact_product


@given(seed=st.integers(0, 2**32 - 1), x_bits=st.integers(4, 36), w_bits=st.integers(2, 24), width=st.integers(1, 40))
def test_a_product_does_not_depend_on_order_and_is_rounded_at_most_once(seed, x_bits, w_bits, width):
    rng = np.random.default_rng(seed)
    x_units, w_units = (
        rng.integers(-(2**x_bits), 2**x_bits, (3, width)),
        rng.integers(-(2**w_bits), 2**w_bits, (2, width)),
    )
    x, w = torch.tensor(x_units).double() * 2.0**-20, torch.tensor(w_units).double() * 2.0**-18
    found = exact_product(Exact(), x, w, -20, -18, "test")
    order = torch.tensor(rng.permutation(width))
    assert torch.equal(found, exact_product(Exact(), x[:, order], w[:, order], -20, -18, "test"))
    for row in range(3):
        for column in range(2):
            exact = Fraction(sum(int(a) * int(b) for a, b in zip(x_units[row], w_units[column], strict=True)), 2**38)
            assert float(found[row, column]) == pytest.approx(float(exact), rel=2.0**-52, abs=0)


def test_what_even_two_limbs_cannot_hold_is_refused():
    x, w = torch.full((1, 4), 2.0**30), torch.full((1, 4), 1.0 + 2.0**-23).double()
    with pytest.raises(ExactnessError, match="fc: sums may reach"):
        exact_product(Exact(), x.double() + 2.0**-20, w, -20, -23, "fc")
