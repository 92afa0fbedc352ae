"""CQReLU against its definition, on every array library; its gradient by hand; rounded activations likewise."""

from __future__ import annotations

import math
from fractions import Fraction

import array_api_strict
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from casc_core import ConfigError, CQReLU, Rounded, cq_relu


def by_definition(x: float, q: int, threshold: float) -> float:
    return threshold / q * min(max(np.floor(q * x / threshold), 0), q)


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, array_api_strict.asarray], ids=["numpy", "torch", "strict"])
@pytest.mark.parametrize(("q", "threshold"), [(1, 1.0), (2, 1.0), (4, 0.5), (8, 2.0), (16, 1.0)])
def test_equals_the_formula_on_every_array_library(make, q, threshold):
    values = [-3.0, -0.25, -0.0, 0.0, 0.124, 0.25, 0.4999, 0.5, 0.75, 0.999, 1.0, 1.5, 2.0, 64.0]
    result = cq_relu(make(values), q, threshold)
    assert type(result) is type(make(values))
    assert [float(result[i]) for i in range(len(values))] == [by_definition(x, q, threshold) for x in values]


@given(st.floats(-4, 4, width=32), st.integers(1, 32), st.sampled_from((0.25, 1.0, 4.0)))
def test_output_is_a_level_below_the_clipped_input(x, q, threshold):
    y = float(cq_relu(np.asarray(x, dtype=np.float64), q, threshold))
    clipped = min(max(x, 0.0), threshold)
    assert 0.0 <= y <= threshold
    assert y <= clipped + 1e-12
    assert clipped - y < threshold / q + 1e-12
    assert y * q / threshold == pytest.approx(round(y * q / threshold), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept(dtype):
    y = cq_relu(torch.rand(2, 0, 3, dtype=dtype), 4)
    assert (y.shape, y.dtype) == ((2, 0, 3), dtype)


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
def test_gradient_is_one_inside_and_zero_outside(threshold):
    below, above = -1e-6, threshold * (1 + 1e-6)
    x = torch.tensor([-9.0, below, 0.0, 0.3 * threshold, threshold, above, 9.0], requires_grad=True)
    upstream = torch.arange(1.0, 8.0)
    (CQReLU(4, threshold)(x) * upstream).sum().backward()
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4, 4)])
def test_gradient_of_trained_thresholds(shape):
    """Of each channel: the sum of upstream times `level / q`, less `x / threshold` inside; infinities are outside."""
    draw = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(shape, generator=draw, dtype=torch.float64)).requires_grad_()
    with torch.no_grad():
        x.flatten()[:2] = torch.tensor([float("inf"), float("-inf")])
    q, thresholds, upstream = 4, torch.tensor([0.5, 1.0, 2.0]), torch.rand(shape, generator=draw, dtype=torch.float64)
    activation = CQReLU(q, thresholds, trainable=True)
    (activation(x) * upstream).sum().backward()
    theta = thresholds.double().reshape(-1, *[1] * (len(shape) - 2)).expand(shape)
    inside = (x >= 0) & (x <= theta)
    assert torch.equal(x.grad, upstream * inside)
    level = (x.detach() * q / theta).floor().clamp(0, q)
    slope = torch.where(inside, level / q - x.detach() / theta, (x > theta).double()) * upstream
    expected = slope.transpose(0, 1).flatten(1).sum(1) / (x.numel() / 3 * q) ** 0.5
    assert torch.allclose(activation.threshold.grad.double(), expected)


@pytest.mark.parametrize("q", [0, -1, 2.0, "2", True, None])
@pytest.mark.parametrize("make", [CQReLU, lambda q: cq_relu(np.zeros(2), q)], ids=["module", "function"])
def test_bad_levels_are_refused_and_quoted(make, q):
    with pytest.raises(ConfigError, match="number of levels, must be an integer of at least 1") as error:
        make(q)
    assert repr(q) in str(error.value)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_thresholds_are_refused(threshold):
    with pytest.raises(ConfigError, match="threshold must be positive and finite"):
        CQReLU(2, threshold)


FUNCTIONS = {
    "sigmoid": (torch.sigmoid, 0), "tanh": (torch.tanh, -1), "hardsigmoid": (F.hardsigmoid, 0),
    "hardtanh": (F.hardtanh, -1), "softsign": (F.softsign, -1),
}  # fmt: skip


@given(
    name=st.sampled_from(list(FUNCTIONS)),
    q=st.integers(1, 64),
    threshold=st.sampled_from((0.5, 1.0, 3.0)),
    values=st.lists(st.floats(-12, 12), min_size=1, max_size=20),
)
def test_rounded_is_the_nearest_level_and_counts_its_thresholds(name, q, threshold, values):
    function, lowest = FUNCTIONS[name]
    x = torch.tensor(values, dtype=torch.float64)
    module = Rounded(q, name, threshold)
    y, exact = module(x), threshold * function(x / threshold)
    assert float((y - exact).abs().max()) <= threshold / (2 * q) * (1 + 1e-12)
    levels = (y * q / threshold).round()
    torch.testing.assert_close(y, levels * threshold / q, rtol=0, atol=1e-12)
    assert int(levels.min()) >= lowest * q
    assert module.ranges() == ((lowest * q, q),)
    thresholds = torch.tensor([float(each) for each in module.thresholds()], dtype=torch.float64)
    assert len(thresholds) == q - lowest * q
    assert bool((thresholds.diff() > 0).all())
    counted = lowest * q + (thresholds <= (q * x)[:, None]).sum(1)
    near = (thresholds - (q * x)[:, None]).abs().min(1).values < 1e-9 * q
    assert bool((near | (counted == levels)).all())


@given(
    q=st.integers(1, 64),
    low=st.sampled_from((0.0, 0.25, 0.5, 1.0, 1 / 3, 0.7)),
    high=st.sampled_from((0.125, 0.5, 2.0, 0.3)),
    values=st.lists(st.floats(-4, 4), min_size=1, max_size=20),
    mirrored=st.booleans(),
)
def test_a_hard_tanh_with_ends_of_other_sizes(q, low, high, values, mirrored):
    """In rationals: the nearest of q levels up to the end that is farther from zero, and so many towards the other."""
    ends = (-high, low) if mirrored else (-low, high)
    module, larger = Rounded(q, "hardtanh", ends=ends), Fraction(max(low, high))
    found = module(torch.tensor(values, dtype=torch.float64))

    def level(x):
        clipped = min(max(Fraction(x), Fraction(ends[0])), Fraction(ends[1]))
        return math.floor(q * clipped / larger + Fraction(1, 2))

    assert module.ranges() == ((level(-9), level(9)),)
    for x, y in zip(values, found.tolist(), strict=True):
        near = abs((q * Fraction(x) / larger + Fraction(1, 2)) % 1)
        if min(near, 1 - near) > Fraction(1, 10**9) or not ends[0] < x < ends[1]:
            assert y == float(level(x)) * float(larger) / q
    thresholds = module.thresholds()
    assert thresholds == [larger * (k - Fraction(1, 2)) for k in range(level(-9) + 1, level(9) + 1)]


def test_a_hard_tanh_trains_between_its_ends():
    x = torch.tensor([-1.5, -0.9, 0.3, 1.9, 2.5], requires_grad=True)
    module = Rounded(4, "hardtanh", ends=(-1.0, 2.0))
    module(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    assert torch.equal(module.as_trained()(x), F.hardtanh(x, -1.0, 2.0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rounded_trains_with_the_gradient_of_the_function(name):
    x = torch.linspace(-3.5, 3.5, 29, dtype=torch.float64, requires_grad=True)
    upstream = torch.arange(29.0, dtype=torch.float64)
    Rounded(4, name, 2.0)(x).backward(upstream)
    found, x.grad = x.grad, None
    (2.0 * FUNCTIONS[name][0](x / 2.0)).backward(upstream)
    torch.testing.assert_close(found, x.grad)


def test_what_rounded_observes():
    x = torch.tensor([-2.0, 0.3, 2.0])
    module = Rounded(4, "tanh")
    y, [z] = module.observed([None], x)
    assert torch.equal(y, module(x))
    torch.testing.assert_close(z, 4 * torch.tanh(x) + 0.5)
    given, _ = module.observed([torch.tensor([-4, 0, 3])], x)
    assert given.tolist() == [-1.0, 0.0, 0.75]
    assert module.observed([torch.tensor([1, 2])], x)[0].tolist() == y.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "tanh"), "q, the number of levels"),
        ((4, "gelu"), "Rounded takes 'sigmoid'.*got 'gelu'"),
        ((4, "tanh", 0), "threshold"),
        ((4, "tanh", 1.0, (-1.0, 2.0)), "'hardtanh' alone has ends"),
        ((4, "hardtanh", 1.0, (0.5, 2.0)), "0 between them"),
        ((4, "hardtanh", 1.0, (0.0, 0.0)), "not both 0"),
        ((4, "hardtanh", 1.0, (-math.inf, 1.0)), "must be finite"),
    ],
)
def test_what_rounded_does_not_take(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Rounded(*arguments)
