"""The grid that numbers are on: all of them are multiples of its unit, and not all of twice as much."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from casc_core.export.grids import finest_exponent


@given(st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=4))
def test_the_finest_bit(values: list[float]) -> None:
    exponent = finest_exponent(torch.tensor(values))
    scaled = [value * 2.0**-exponent for value in values]
    assert all(each == int(each) for each in scaled)
    assert not any(scaled) or any(int(each) % 2 for each in scaled)


def test_what_is_no_number_is_on_every_grid() -> None:
    assert finest_exponent(torch.tensor([float("-inf"), 0.75])) == -2
    assert finest_exponent(torch.zeros(3)) == 0
