"""Pools of every geometry that torch takes give what torch gives; what torch refuses is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import casc_core
from casc_core import CascError, CQReLU, InputError


class Pooled(nn.Module):
    """Spikes, each worth a quarter, and a pool of them."""

    def __init__(self, pool) -> None:
        super().__init__()
        self.act, self.pool = CQReLU(4), pool

    def forward(self, x):
        return self.pool(self.act(x))


@st.composite
def sizes(draw, dims, values):
    """One number, or one for each dimension."""
    return draw(st.one_of(values, st.tuples(*[values] * dims)))


@st.composite
def pools(draw):
    """A pool, the shape of its input, and whether it is an average."""
    dims, average = draw(st.integers(1, 2)), draw(st.booleans())
    options = {
        "kernel_size": draw(sizes(dims, st.integers(1, 4))),
        "stride": draw(st.one_of(st.none(), sizes(dims, st.integers(1, 5)))),
        "padding": draw(sizes(dims, st.integers(0, 2))),
        "ceil_mode": draw(st.booleans()),
    }
    if average:
        options["count_include_pad"] = draw(st.booleans())
        if dims == 2:
            options["divisor_override"] = draw(st.sampled_from((None, None, 1, 3, -2)))
    else:
        options["dilation"] = draw(sizes(dims, st.integers(1, 3)))
    batched = draw(st.booleans())
    shape = [2, *([3] if batched else []), *(draw(st.integers(1, 7)) for _ in range(dims))]
    kind = f"{'avg' if average else 'max'}_pool{dims}d"
    return partial(getattr(F, kind), **options), shape, average


@settings(max_examples=60)
@given(case=pools(), seed=st.integers(0, 99))
def test_it_is_torchs(case, seed):
    pool, shape, average = case
    x = torch.randint(-4, 20, shape, generator=torch.Generator().manual_seed(seed)) / 16.0
    model = Pooled(pool)
    try:
        expected = model(x)
    except RuntimeError:
        with pytest.raises(CascError):
            casc_core.convert(model)(x)
        return
    snn = casc_core.convert(model)
    if not torch.isfinite(expected).all():
        with pytest.raises(InputError, match="in the padding alone"):
            snn(x)
        return
    simulation = snn.simulate(x)
    assert torch.equal(simulation.logits[-1], snn.reference(x))
    if average:
        torch.testing.assert_close(snn(x), expected, rtol=1e-6, atol=1e-7)
    else:
        assert torch.equal(snn(x), expected)


@pytest.mark.parametrize(
    ("pool", "refused"),
    [
        (nn.MaxPool2d(4), "a size of 3 is too small for a window of 4"),
        (nn.AvgPool2d(5, ceil_mode=True, stride=1), "a size of 3 is too small for a window of 5"),
        (partial(F.max_pool2d, kernel_size=2, stride=2, padding=2), "padding must be at most half of kernel"),
        (partial(F.avg_pool2d, kernel_size=2, padding=-1), "integer in 0"),
        (partial(F.max_pool2d, kernel_size=2, stride=(0, 1)), "integer in 1"),
        (partial(F.avg_pool2d, kernel_size=2, divisor_override=0), "divisor_override of 0"),
    ],
)
def test_what_torch_refuses_is_refused(pool, refused):
    model, x = Pooled(pool), torch.rand(2, 3, 3, 3)
    with pytest.raises(RuntimeError):
        model(x)
    with pytest.raises(CascError, match=refused):
        casc_core.convert(model)(x)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, ceil_mode=True)])
def test_a_window_larger_than_its_input(pool):
    model, x = Pooled(pool), torch.rand(2, 3, 2, 2)
    torch.testing.assert_close(casc_core.convert(model)(x), model(x))
