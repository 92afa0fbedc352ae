"""Windows and parts against torch's own pooling, on whole numbers of every type."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from casc_core import InputError
from casc_core.engine.products.pooling_windows import Window, adaptive, maxima, sums

TYPES = st.sampled_from((torch.int8, torch.int16, torch.int32, torch.float32, torch.float64))


@st.composite
def windows(draw, dilated, count=2):
    """So many windows, one for each dimension, as one pooling layer has them."""
    ceil_mode, found = draw(st.booleans()), []
    for _ in range(count):
        kernel = draw(st.sampled_from((1, 2, 3, 4, 5, 9, 13)))
        stride, padding = draw(st.integers(1, 4)), draw(st.integers(0, kernel // 2))
        found.append(Window(kernel, stride, padding, draw(st.integers(1, 3)) if dilated else 1, ceil_mode))
    return tuple(found)


def numbers(seed, dtype, *shape):
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def fits(window: Window, size: int) -> bool:
    return size + 2 * window.padding > window.dilation * (window.kernel - 1)


@given(
    pair=windows(True),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    dtype=TYPES,
    seed=st.integers(0, 99),
)
def test_maxima_are_torchs(pair, size, dtype, seed):
    assume(all(fits(window, each) for window, each in zip(pair, size, strict=True)))
    assume(all(window.counts(each, False).all() for window, each in zip(pair, size, strict=True)))
    x = numbers(seed, dtype, 2, 3, *size)
    a, b = pair
    expected = F.max_pool2d(
        x.double(), (a.kernel, b.kernel), (a.stride, b.stride), (a.padding, b.padding), (a.dilation, b.dilation),
        ceil_mode=a.ceil_mode,
    )  # fmt: skip
    found = maxima(x, pair)
    assert found.dtype == dtype
    assert torch.equal(found.double(), expected)
    assert expected.shape[2:] == tuple(window.outputs(each) for window, each in zip(pair, size, strict=True))


@given(
    pair=windows(False),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    dtype=TYPES,
    counted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sums_and_counts_are_torchs(pair, size, dtype, counted, seed):
    assume(all(fits(window, each) for window, each in zip(pair, size, strict=True)))
    assume(dtype != torch.int8 or pair[0].kernel * pair[1].kernel * 9 < 128)
    x = numbers(seed, dtype, 2, 3, *size)
    a, b = pair
    geometry = (a.kernel, b.kernel), (a.stride, b.stride), (a.padding, b.padding), a.ceil_mode
    counts = a.counts(size[0], counted)[:, None] * b.counts(size[1], counted)
    expected = F.avg_pool2d(x.double(), *geometry, counted)
    found = sums(x, pair)
    assert found.dtype == dtype
    assert int(counts.min()) > 0
    torch.testing.assert_close(found.double() / counts, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.double(), F.avg_pool2d(x.double(), *geometry, divisor_override=1))


@given(window=windows(True, 1), size=st.integers(1, 30), seed=st.integers(0, 99))
def test_one_dimension(window, size, seed):
    (window,) = window
    assume(fits(window, size))
    assume(window.counts(size, False).all())
    x = numbers(seed, torch.int32, 2, 3, size)
    expected = F.max_pool1d(x.double(), window.kernel, window.stride, window.padding, window.dilation, window.ceil_mode)
    assert torch.equal(maxima(x, (window,)).double(), expected)


@given(size=st.integers(1, 12), outputs=st.integers(1, 12), seed=st.integers(0, 99))
def test_parts_are_torchs(size, outputs, seed):
    x = numbers(seed, torch.float64, 1, 2, size)
    spans = adaptive(size, outputs)
    assert len(spans) == outputs
    largest = torch.stack([x[..., first:last].amax(-1) for first, last in spans], -1)
    mean = torch.stack([x[..., first:last].mean(-1) for first, last in spans], -1)
    assert torch.equal(largest, F.adaptive_max_pool1d(x, outputs))
    torch.testing.assert_close(mean, F.adaptive_avg_pool1d(x, outputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "most"), [(5, 3), (9, 4), (13, 4), (2, 1), (3, 2)])
def test_large_maxima_take_few_comparisons(kernel, most):
    """13 neighbours take 4: windows of 2, 4 and 8 from two of half the length, then two of 8."""
    calls = []

    def counted(a, b):
        calls.append(1)
        return torch.maximum(a, b)

    x = numbers(0, torch.int8, 1, 20)
    found = Window(kernel, 1, kernel // 2).reduce(x, -1, -128, counted, repeats=True)
    assert torch.equal(found.double(), F.max_pool1d(x.double(), kernel, 1, kernel // 2))
    assert len(calls) == most


def test_minus_infinity_outside():
    x = torch.full((1, 3), -math.inf)
    assert torch.equal(maxima(x, (Window(3, 1, 1),)), x)
    assert torch.equal(
        maxima(torch.full((1, 3), -128, dtype=torch.int8), (Window(3, 1, 1),)), torch.full((1, 3), -128).to(torch.int8)
    )


def test_too_small():
    with pytest.raises(InputError, match="a size of 2 is too small for a window of 3"):
        Window(3, 1).outputs(2)
    with pytest.raises(InputError, match="a size of 3 is too small for a window of 2"):
        maxima(torch.zeros(1, 3), (Window(2, 1, dilation=3),))
