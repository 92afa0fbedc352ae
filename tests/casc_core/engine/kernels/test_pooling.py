"""Running maxima of windows against torch's max-pools, under every set of instructions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from casc_core.engine import kernels
from casc_core.engine.products.pooling_windows import Window, each_reads, maxima

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def by_hand(train, windows):
    """The windows' maxima of totals in float, one step less the one before."""
    totals = train.double().cumsum(0)
    pooled = maxima(totals, windows)
    return pooled - torch.cat([torch.zeros_like(pooled[:1]), pooled[:-1]])


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=st.sampled_from(COMPILED_OR_EMULATED),
    size=st.tuples(st.integers(1, 9), st.integers(1, 7)),
    channels=st.sampled_from((1, 5, 16, 70)),
    steps=st.integers(0, 6),
    window=st.tuples(
        st.builds(Window, st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), st.booleans()),
        st.builds(Window, st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), st.booleans()),
    ),
)
def test_they_are_the_differences_of_maxima(seed, instructions, size, channels, steps, window):
    assume(all(2 * each.padding <= each.kernel for each in window))
    assume(all(s + 2 * w.padding > w.dilation * (w.kernel - 1) for s, w in zip(size, window, strict=True)))
    assume(all(each_reads(w, s) for s, w in zip(size, window, strict=True)))
    generator = torch.Generator().manual_seed(seed)
    train = torch.randint(-9, 10, (steps, 2, channels, *size), generator=generator, dtype=torch.int8)
    outputs = tuple(w.outputs(s) for s, w in zip(size, window, strict=True))
    pairs = [tuple(getattr(w, name) for w in window) for name in ("kernel", "stride", "padding", "dilation")]
    with kernels.using(instructions):
        found = kernels.running_maxima(train, *pairs, outputs)
    assert torch.equal(found.double(), by_hand(train, window)) if steps else found.shape == (0, 2, channels, *outputs)


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
@pytest.mark.parametrize(("kernel", "stride", "size"), [(2, 2, (8, 8)), (3, 2, (91, 60)), (5, 1, (91, 60))])
def test_it_is_the_max_pool_of_torch(instructions, kernel, stride, size):
    """Also where a sample is cut into bands."""
    around = kernel // 2 if kernel % 2 else 0
    train = torch.randint(-1, 2, (5, 3, 33, *size), dtype=torch.int8)
    pooled = F.max_pool2d(train.float().cumsum(0).flatten(0, 1), kernel, stride, around).unflatten(0, (5, 3))
    outputs = tuple(pooled.shape[3:])
    with kernels.using(instructions):
        found = kernels.running_maxima(train, (kernel,) * 2, (stride,) * 2, (around,) * 2, (1, 1), outputs)
    assert torch.equal(found.float().cumsum(0), pooled)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": torch.zeros(2, 3, 4, 4, dtype=torch.int8)},
        {"train": torch.zeros(2, 1, 3, 4, 4)},
        {"kernel": (0, 2)},
        {"stride": (0, 2)},
        {"padding": (3, 0)},
        {"padding": (-1, 0)},
        {"size": (4, 2)},
        {"size": (0, 2)},
    ],
)
def test_what_does_not_fit(wrong):
    good = {
        "train": torch.ones(2, 1, 3, 4, 4, dtype=torch.int8), "kernel": (2, 2), "stride": (2, 2), "padding": (0, 0),
        "dilation": (1, 1), "size": (2, 2),
    }  # fmt: skip
    assert kernels.running_maxima(**good).shape == (2, 1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"does not fit|must be"):
        kernels.running_maxima(**good | wrong)
