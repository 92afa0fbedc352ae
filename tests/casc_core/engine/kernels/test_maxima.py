"""Running maxima against plain NumPy, under every set of instructions of this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.engine import kernels
from casc_core.engine.products.pooling_windows import Window, each_reads

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def by_window(totals: np.ndarray, over_y: Window, over_x: Window) -> np.ndarray:
    """`[..., height, width]`: the largest of each window, one by one."""
    height, width = totals.shape[-2:]

    def read(window: Window, output: int, size: int) -> list[int]:
        first = output * window.stride - window.padding
        return [at for at in range(first, first + window.kernel * window.dilation, window.dilation) if 0 <= at < size]

    return np.stack(
        [
            np.stack(
                [
                    totals[..., read(over_y, y, height), :][..., read(over_x, x, width)].max((-2, -1))
                    for x in range(over_x.outputs(width))
                ],
                -1,
            )
            for y in range(over_y.outputs(height))
        ],
        -2,
    )


@st.composite
def windows(draw: st.DrawFn, size: int) -> Window:
    kernel = draw(st.integers(1, 5))
    window = Window(
        kernel, draw(st.integers(1, 3)), draw(st.integers(0, kernel // 2)), draw(st.integers(1, 2)), draw(st.booleans())
    )
    fits = size + 2 * window.padding >= window.dilation * (kernel - 1) + 1
    return window if fits and each_reads(window, size) else Window(1, 1)


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_running_maximum_is_that_of_each_window(instructions, data):
    steps, samples, height, width = (
        data.draw(st.integers(low, most)) for low, most in ((1, 6), (1, 3), (1, 40), (1, 9))
    )
    channels = data.draw(st.sampled_from([1, 3, 8, 16, 32, 64]))
    over_y, over_x = data.draw(windows(height)), data.draw(windows(width))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    most = data.draw(st.sampled_from([1, 100]))
    train = rng.integers(-most, most + 1, (steps, samples, channels, height, width)).astype(np.int8)
    maxima = by_window(train.cumsum(0, dtype=np.int64), over_y, over_x)
    expected = np.diff(maxima, axis=0, prepend=0)
    with kernels.using(instructions):
        result = kernels.maxima(torch.tensor(train), (over_y, over_x), float(most * steps))
    np.testing.assert_array_equal(result, expected)


def test_what_does_not_fit_is_refused():
    train = torch.zeros(2, 1, 1, 4, 4, dtype=torch.int8)
    for wrong in (train[0], train.float()):
        with pytest.raises(ValueError, match="a train of images"):
            kernels.maxima(wrong, (Window(2, 2), Window(2, 2)), 2)
    with pytest.raises(ValueError, match="padding alone"):
        kernels.maxima(train[..., :2], (Window(1, 1), Window(2, 2, padding=1, dilation=3)), 2)
    with pytest.raises(ValueError, match="totals up to 40000"):
        kernels.maxima(train, (Window(2, 2), Window(2, 2)), 40_000)
