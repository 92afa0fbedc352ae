"""Grids: snapping, the choice of a type, and that sums in it are the integers they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casc_core import AsTrained, ConfigError, Exact, ExactnessError
from casc_core.numerics import as_numerics, binade, on_grid, stored

FINITE = st.floats(-1000, 1000, allow_nan=False)


@given(FINITE, st.integers(-20, 4))
def test_snapping_gives_the_nearest_grid_point_and_keeps_it(x, exponent):
    snapped = on_grid(torch.tensor([x], dtype=torch.float64), exponent)
    assert snapped.dtype == torch.float64
    units = float(snapped) / 2.0**exponent
    assert units == round(units)
    assert abs(float(snapped) - x) <= 2.0**exponent / 2
    assert torch.equal(on_grid(snapped, exponent), snapped)


def test_snapping_leaves_its_argument_alone():
    x = torch.tensor([0.3], dtype=torch.float64)
    on_grid(x, 0)
    assert x.item() == 0.3


@given(st.floats(1e-30, 1e30))
def test_binade_is_the_smallest_power_of_two_not_below(x):
    k = binade(x)
    assert math.ldexp(1.0, k - 1) < x <= math.ldexp(1.0, k)


@given(st.lists(FINITE, min_size=1, max_size=6), st.integers(2, 24))
def test_a_snapped_weight_takes_no_more_than_its_bits(values, bits):
    weight = torch.tensor(values, dtype=torch.float64)
    exponent = Exact(bits).weight_exponent(weight)
    units = Exact(bits).snap(weight, exponent) / 2.0**exponent
    assert float(units.abs().max()) <= 2 ** (bits - 1)
    if any(values):
        assert float(units.abs().max()) >= 2 ** (bits - 2) - 0.5


@pytest.mark.parametrize(
    ("units", "dtype"),
    [(1, torch.float32), (2**24 - 1, torch.float32), (2**24, torch.float64), (2**53 - 1, torch.float64)],
)
@pytest.mark.parametrize("exponent", [-20, 0, 3])
def test_choice_of_type(units, dtype, exponent):
    assert Exact().dtype(math.ldexp(units, exponent), exponent, "layer") == dtype


def test_what_does_not_fit_is_refused_with_a_remedy():
    with pytest.raises(ExactnessError, match=r"fc: sums may reach .* fewer weight_bits"):
        Exact().dtype(2.0**53, 0, "fc")
    assert AsTrained().dtype(2.0**30, 0, "fc") == torch.float64


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 24), st.integers(1, 64), st.integers(-20, 5))
def test_products_in_the_chosen_type_are_integer_arithmetic(seed, fan_in, bits, peak, exponent):
    generator = torch.Generator().manual_seed(seed)
    units = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1) + 1, (3, fan_in), generator=generator)
    counts = torch.randint(-peak, peak + 1, (2, fan_in), generator=generator)
    weight = units.double() * 2.0**exponent
    dtype = Exact().dtype(float(weight.abs().sum(1).max()) * peak, exponent, "layer")
    product = torch.nn.functional.linear(counts.to(dtype), weight.to(dtype))
    for i in range(2):
        for j in range(3):
            expected = sum(a * b for a, b in zip(counts[i].tolist(), units[j].tolist(), strict=True))
            assert product[i, j].item() == expected * 2.0**exponent


def test_stored_is_the_smaller_type_only_where_it_is_exact():
    assert stored(torch.tensor([0.5], dtype=torch.float64)).dtype == torch.float32
    assert stored(torch.tensor([0.1], dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("bits", [1, 25, 0, 8.0, True, "8"])
def test_bad_weight_bits(bits):
    with pytest.raises(ConfigError, match="weight_bits must"):
        Exact(bits)


def test_inputs_that_enter_unrounded_are_none_of_a_grid():
    assert torch.equal(AsTrained().drive(torch.tensor([0.1]), None), torch.tensor([0.1]).double())
    with pytest.raises(ExactnessError, match=r"unrounded, and Exact\(weight_bits=8\) sums them on a grid: convert"):
        Exact(8).drive(torch.ones(1), None)


def test_numerics_by_name():
    assert as_numerics("exact") == Exact()
    assert as_numerics("as trained") == AsTrained()
    assert as_numerics(Exact(8)) == Exact(8)
    with pytest.raises(ConfigError, match=r"'as trained', 'exact'.*'int8'"):
        as_numerics("int8")
