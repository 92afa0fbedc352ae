"""Sums of real-valued inputs: correct beyond float64, and the same bits in whatever order and in however many parts."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import AsTrained, Exact
from casc_core.engine.products import exact_sums
from casc_core.engine.products.exact_sums import exact_product, exact_sum, limbs, weight_limbs, whole_sums
from casc_core.engine.products.geometry import Geometry, convolve

NUMBERS = st.floats(-(2.0**40), 2.0**40, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 2.0**-60)


def product(x, weight, **options):
    return exact_product(AsTrained(), x, weight, 0, 0, "fc", **options)


def true_sum(x, weight):
    """In exact rationals, rounded once."""
    return float(sum(Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), weight.tolist(), strict=True)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_product_is_rounded_as_if_once(data):
    width = data.draw(st.integers(1, 12))
    rows = st.lists(NUMBERS, min_size=width, max_size=width)
    x, weight = (torch.tensor([data.draw(rows) for _ in range(3)], dtype=torch.float64) for _ in range(2))
    found = product(x, weight)
    for row, given_ in zip(found, x, strict=True):
        for value, weights in zip(row.tolist(), weight, strict=True):
            # Compensated: the true sum to twice float64's bits, so rounded to it unless a tie is that close.
            scale = float((given_.abs() * weights.abs()).sum())
            assert abs(value - true_sum(given_, weights)) <= 2.0**-53 * abs(value) + 2.0**-96 * scale


def test_what_cancels_is_not_lost():
    x = torch.ones(1, 3, dtype=torch.float64)
    weight = torch.tensor([[2.0**40, 1.0 + 2.0**-50, -(2.0**40)]], dtype=torch.float64)
    assert product(x, weight).item() == 1.0 + 2.0**-50 != F.linear(x, weight).item()


@pytest.mark.parametrize("entries", [1, 40, 2**18])
@pytest.mark.parametrize("seed", range(3))
def test_order_and_parts_change_no_bit(entries, seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)

    def wide(*shape):
        places = torch.randint(-30, 20, shape, generator=generator)
        return torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0**places

    x, weight = wide(17, 3, 40), wide(9, 40)
    expected = torch.stack([torch.stack([product(part, weight) for part in row]) for row in x])
    order = torch.randperm(40, generator=generator)
    monkeypatch.setattr(exact_sums, "AT_ONCE", entries)
    assert torch.equal(product(x, weight), expected)
    assert torch.equal(product(x[..., order], weight[:, order]), expected)
    assert torch.equal(product(x.transpose(0, 1), weight), expected.transpose(0, 1))
    assert torch.equal(product(x[:1].expand(5, 3, 40), weight), expected[:1].expand(5, 3, 9))
    assert torch.equal(exact_sum(x, weight_limbs(weight), F.linear), expected)
    images, filters = wide(6, 3, 8, 8), wide(5, 3, 3, 3)
    geometry = Geometry((3, 3), padding=(1, 1, 1, 1))
    run = lambda x: product(x, filters, product=lambda x, weight: convolve(x, weight, geometry))  # noqa: E731
    whole = run(images)
    assert torch.equal(whole, torch.cat([run(image[None]) for image in images]))
    assert torch.equal(whole, run(images.to(memory_format=torch.channels_last)))
    sums = whole_sums(AsTrained(), x, lambda x: x.sum(-1), by_row=True)
    assert torch.equal(sums, whole_sums(AsTrained(), x[..., order], lambda x: x.sum(-1), by_row=False))


def test_limbs_add_up_and_leave_what_they_are_given_alone():
    x = torch.tensor([3.0e20, 1.0 / 3, -7.0, 2.0**-300, 0.0, -(2.0**-149)], dtype=torch.float64)
    before = x.clone()
    parts = list(limbs(x))
    assert torch.equal(x, before)
    assert [sum(map(Fraction, column)) for column in torch.stack(parts).T.tolist()] == [Fraction(v) for v in x.tolist()]
    sums = [whole_sums(AsTrained(), x, lambda x: x, by_row=by_row) for by_row in (True, False)]
    assert torch.equal(sums[0], before)
    assert torch.equal(sums[1], before)


@pytest.mark.parametrize("numerics", [AsTrained(), Exact()], ids=str)
def test_nothing_at_all(numerics):
    x, weight = torch.zeros(4, 5).double(), torch.ones(3, 5).double()
    assert torch.equal(exact_product(numerics, x, weight, 0, 0, "fc"), torch.zeros(4, 3).double())
    assert torch.equal(whole_sums(numerics, x, lambda x: x.sum(1), by_row=True), torch.zeros(4).double())
