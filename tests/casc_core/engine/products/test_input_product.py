"""Products of real-valued input, rounded to a grid: the exact sums' bits, whatever has been summed exactly to know them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import AsTrained
from casc_core.engine.kernels import all_instructions, using
from casc_core.engine.products import input_product
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.input_product import (
    ConvolutionSums,
    InputProduct,
    InputWeights,
    LinearSums,
    product_on_grid,
)
from casc_core.numerics import on_grid

SEEDS = st.integers(0, 2**32 - 1)


def agree(x, weight, sums, bias, exponents):
    """That every way of rounding gives the exact sums, rounded."""
    weights = InputWeights.of(weight)
    exact = InputProduct(x, weights, sums, bias, sums(x, weight).shape).values()
    for exponent in exponents:
        expected = on_grid(exact, exponent)
        for instructions in all_instructions():
            with using(instructions):
                rounded = InputProduct(x, weights, sums, bias, exact.shape).on_grid(AsTrained(), exponent)
            assert torch.equal(rounded, expected)


def wide(shape, generator):
    places = torch.randint(-12, 6, shape, generator=generator)
    return (torch.randn(shape, generator=generator) * 2.0**places).double()


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.booleans(), st.sampled_from([1, 3, 70, 200]))
def test_of_a_linear_map(seed, biased, width):
    generator = torch.Generator().manual_seed(seed)
    x, weight = wide((2, 9, width), generator), wide((70, width), generator) / 3
    bias = wide((70,), generator) if biased else None
    agree(x, weight, LinearSums(), bias, (-44, -41, -36, -20))


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.booleans(), st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_of_a_convolution(seed, biased, groups, dims):
    generator = torch.Generator().manual_seed(seed)
    geometry = Geometry((3, 2), (2, 1), (1, 0, 1, 2), (1, 2), groups)
    if dims == 1:
        geometry = Geometry((1, 2), (1, 2), (0, 0, 1, 2), (1, 3), groups)
    x = wide((3, 6, 7, 9)[: dims + 2], generator)
    weight, bias = wide((9, 6 // groups, *geometry.kernel), generator) / 3, wide((9,), generator) if biased else None
    agree(x, weight, ConvolutionSums(geometry, dims), bias, (-44, -41, -36, -20))
    agree(x[:1].expand(5, *x.shape[1:]), weight, ConvolutionSums(geometry, dims), bias, (-40,))


@pytest.mark.parametrize("exponent", [0, -3])
def test_sums_in_the_middle_between_two_multiples_are_rounded_to_even(exponent):
    x = torch.arange(-20.0, 20.0).double()[:, None] / 16
    weight = torch.ones(3, 1).double()
    for instructions in all_instructions():
        with using(instructions):
            rounded = InputProduct(x, InputWeights.of(weight), LinearSums(), None, torch.Size([40, 3]))
            assert torch.equal(rounded.on_grid(AsTrained(), exponent), on_grid(x.expand(40, 3), exponent))


@pytest.mark.parametrize("times", [2.0**6, 2.0**9, 2.0**40])
def test_whatever_the_filter_leaves_is_summed_exactly(times, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(input_product, "_ROUNDING", times * 2.0**-53)
    monkeypatch.setattr(input_product, "_EXACTLY", min(1.0, times * 2.0**-50))
    monkeypatch.setattr(input_product, "_RARE", 1)
    agree(
        wide((8, 30), generator), wide((20, 30), generator) / 3, LinearSums(), wide((20,), generator), (-40, -36, -30)
    )


def test_nothing_at_all():
    for x, weight in ((torch.zeros(2, 5), torch.ones(3, 5)), (torch.ones(2, 5), torch.zeros(3, 5))):
        agree(x.double(), weight.double(), LinearSums(), None, (-40, 0))


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from([3, 200]))
def test_what_is_held_is_what_it_would_be_and_the_same_in_any_batch(seed, width):
    generator = torch.Generator().manual_seed(seed)
    x, weight = wide((6, width), generator), wide((9, width), generator)
    weights = InputWeights.of(weight)
    exact = InputProduct(x, weights, LinearSums(), None, None).values()
    for exponent, most in ((-47, 16.0), (-44, 64.0), (-30, 1.0)):
        held = on_grid(exact, exponent).clamp(-most, most)
        for instructions in all_instructions():
            with using(instructions):
                together = product_on_grid(AsTrained(), x, weights, LinearSums(), exponent, most)
                apart = [product_on_grid(AsTrained(), row, weights, LinearSums(), exponent, most) for row in x.split(1)]
            assert torch.equal(together, held)
            assert torch.equal(torch.cat(apart), held)
