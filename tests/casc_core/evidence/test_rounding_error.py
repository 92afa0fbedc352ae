"""The error analysis of a forward, against exact rational sums."""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from casc_core.evidence.rounding_error import Magnitudes

X = torch.tensor([[3.0, -5.0, 0.5]], dtype=torch.float64)


def magnitude_of(function, *inputs: Tensor) -> tuple[Tensor, Magnitudes]:
    with torch.no_grad(), Magnitudes() as magnitudes:
        return function(*inputs), magnitudes


def test_differences_are_sums_and_signs_are_lost():
    def forward(x):
        y = x - 1
        y -= x
        y = 2 - y
        y = torch.sub(y, -x, alpha=2)
        y.mul_(-0.5)
        y += -1.0
        return -y.sub_(3)

    # |x| + 1, + |x|, 2 + that, + 2 |x|, half of it, + 1, + 3
    assert magnitude_of(forward, X)[0].tolist() == [[(4 * size + 3) / 2 + 4 for size in (3.0, 5.0, 0.5)]]


def test_of_a_normalisation_the_mean_is_added():
    norm = nn.BatchNorm1d(3).double().eval()
    norm.running_mean.copy_(torch.tensor([2.0, -2.0, 0.0]))
    norm.running_var.fill_(1.0 - norm.eps)
    norm.bias.data.fill_(-1.0)
    torch.testing.assert_close(magnitude_of(norm, X)[0], torch.tensor([[6.0, 8.0, 1.5]], dtype=torch.float64))


def test_entries_are_set_and_an_infinite_fill_stays():
    def forward(x):
        y = torch.zeros_like(x)
        y[0] = -x[0]
        return y.masked_fill(x > 4, -torch.inf).amax(1)

    # What is masked is told from magnitudes: the 5 is.
    assert magnitude_of(forward, X)[0].tolist() == [3.0]


def test_more_terms_are_more_roundings():
    def roundings(function, *inputs):
        return magnitude_of(function, *inputs)[1].roundings

    def image(size):
        return torch.randn(2, 3, size, size)

    assert roundings(F.linear, torch.randn(2, 50), torch.randn(4, 50)) >= 50
    assert roundings(torch.matmul, torch.randn(2, 50), torch.randn(50, 4)) >= 50
    assert roundings(lambda *x: torch.einsum("ik,kj->ij", list(x)), torch.randn(2, 50), torch.randn(50, 4)) >= 50
    assert 27 <= roundings(F.conv2d, image(32), torch.randn(5, 3, 3, 3)) < 60
    assert roundings(F.conv_transpose2d, image(8), torch.randn(3, 5, 3, 3)) >= 27
    assert roundings(lambda x: F.adaptive_avg_pool2d(x, 1), image(16)) >= 256
    assert roundings(lambda x: x.mean((2, 3)), image(16)) >= 256
    assert roundings(lambda x: x.cumsum(1), torch.randn(2, 100)) >= 100
    assert roundings(lambda x: (x > 0).sum(), image(4)) == 0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 60), st.sampled_from([0.0, 1e4, 1e8]))
def test_what_float64_gives_is_within_the_bound_of_what_is_true(seed, terms, centre):
    torch.manual_seed(seed)
    x = torch.randn(4, terms, dtype=torch.float64) + centre
    weight, bias = torch.randn(3, terms, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    def forward(x):
        return (F.linear(x, weight, bias) - x.sum(1, keepdim=True)) * -0.7 + 0.3

    found, (magnitude, magnitudes) = forward(x), magnitude_of(forward, x)
    for sample in range(4):
        row = [Fraction(value) for value in x[sample].tolist()]
        for out in range(3):
            products = (Fraction(w) * v for w, v in zip(weight[out].tolist(), row, strict=True))
            true = (sum(products) + Fraction(float(bias[out])) - sum(row)) * Fraction(-0.7) + Fraction(0.3)
            off = abs(Fraction(float(found[sample, out])) - true)
            assert off <= Fraction(magnitudes.relative_error) * Fraction(float(magnitude[sample, out]))
