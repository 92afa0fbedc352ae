"""Products by an equation: those of torch.einsum, in whole numbers and rounded as if once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import InputError
from casc_core.engine.products.contraction import ELEMENTWISE, MATMUL, Contraction
from casc_core.engine.products.exact_sums import exact_matrices

SHAPES = {
    "bk,kj->bj": ((2, 3), (3, 4)),
    "bhld,bhdm->bhlm": ((2, 2, 3, 4), (2, 2, 4, 5)),
    "bchw,bkc->bkhw": ((2, 3, 2, 2), (2, 4, 3)),
    "bchw,bkhw->bck": ((2, 3, 2, 2), (2, 4, 2, 2)),
    "b...w,bcvw->b...v": ((2, 3, 4), (2, 3, 5, 4)),
    "...k,nk->...n": ((2, 3, 4), (5, 4)),
    "ab,c->bc": ((2, 3), (4,)),
    "i,j->ij": ((3,), (2,)),
    "bi,bi->b": ((2, 3), (2, 3)),
    "i,i->": ((3,), (3,)),
    "...,...->...": ((2, 1, 4), (3, 1)),
    "...ik,...kj->...ij": ((3, 1, 2, 4), (2, 4, 3)),
}


@pytest.mark.parametrize("equation", SHAPES)
def test_it_is_that_of_numpy_in_whole_numbers(equation):
    contraction = Contraction(equation)
    assert contraction.wrong is None
    random = np.random.default_rng(0)
    a, b = (random.integers(-9, 10, shape) for shape in SHAPES[equation])
    found = contraction(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    expected = np.einsum(equation, a, b)
    np.testing.assert_array_equal(found, expected)
    labels = contraction.at(*map(torch.Size, SHAPES[equation]))
    assert labels.shape == expected.shape
    assert contraction.is_summed == (labels.terms > 1)
    sums = np.einsum(equation, np.ones_like(a), np.ones_like(b))
    assert set(sums.flat) == {labels.terms}


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((4,), (4, 3)), ((2, 4), (4,)), ((5, 2, 4), (4,)), ((4,), (5, 4, 2))])
def test_vectors_are_multiplied_as_torch_multiplies_them(shapes):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-9, 10, shape, generator=generator).double() for shape in shapes)
    assert torch.equal(Contraction(MATMUL)(a, b), a @ b)
    assert Contraction(MATMUL).at(a.shape, b.shape).terms == 4


@pytest.mark.parametrize(
    ("equation", "why"),
    [
        ("ab,b", "with an arrow"),
        ("ab->a", "two operands"),
        ("aa,b->a", "stands twice"),
        ("a,b->aa", "stands twice"),
        ("a,b->c", "that no operand has"),
        ("...a,a->a", "dimensions that the result has"),
        ("b...,b...->b", "dimensions that the result has"),
        ("a,b->...a", "dimensions that the result has"),
    ],
)
def test_what_is_no_product_of_two(equation, why):
    assert why in Contraction(equation).wrong


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match="'bk' of a product of tensors does not stand for one of 3 dimensions"):
        Contraction("bk,kj->bj").at(torch.Size([1, 2, 3]), torch.Size([2, 3]))
    with pytest.raises(InputError, match="do not broadcast"):
        Contraction("bk,kj->bj").at(torch.Size([2, 3]), torch.Size([4, 3]))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1), terms=st.sampled_from((1, 3, 40, 600)), spread=st.sampled_from((0, 20, 60)),
    shared=st.integers(1, 3),
)  # fmt: skip
def test_matrices_are_multiplied_as_if_rounded_once(seed, terms, spread, shared):
    """In rationals; whatever the magnitudes, and whatever else stands in the batch."""
    random = np.random.default_rng(seed)

    def drawn(*shape):
        whole = random.integers(-(2**52), 2**52, shape).astype(np.float64)
        return torch.tensor(np.ldexp(whole, random.integers(-spread - 52, spread - 51, shape)))

    a, b = drawn(shared, 2, terms), drawn(shared, terms, 2)
    found = exact_matrices(a, b)
    for each, row, column in ((0, 0, 1), (shared - 1, 1, 0)):
        products = [
            Fraction(x) * Fraction(y) for x, y in zip(a[each, row].tolist(), b[each, :, column].tolist(), strict=True)
        ]
        exact, size = sum(products, Fraction()), sum(map(abs, products), Fraction())
        # One rounding, and what is left of sums that cancel.
        assert abs(Fraction(float(found[each, row, column])) - exact) <= abs(exact) / 2**53 + size / 2**95
    alone = torch.cat([exact_matrices(a[each : each + 1], b[each : each + 1]) for each in range(shared)])
    assert torch.equal(found, alone)
    larger = torch.cat([a, 2.0**70 * a]), torch.cat([b, b])
    assert torch.equal(exact_matrices(*larger)[:shared], found)


def test_nothing_gives_nothing():
    assert exact_matrices(torch.zeros(1, 2, 3), torch.zeros(1, 3, 2)).tolist() == [[[0, 0], [0, 0]]]
    assert Contraction(ELEMENTWISE)(torch.zeros(0, 2), torch.zeros(2)).shape == (0, 2)
