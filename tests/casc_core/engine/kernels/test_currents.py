"""The kernel that writes the currents of a convolution, against torch's own convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.engine import kernels
from casc_core.engine.products.geometry import Geometry

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def drawn(seed, peak, density, *shape):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-peak, peak + 1, shape, generator=generator)
    return (numbers * (torch.rand(shape, generator=generator) < density)).to(torch.int8)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=st.sampled_from(COMPILED_OR_EMULATED),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    groups=st.sampled_from((1, 2, 3)),
    inputs=st.sampled_from((1, 3, 8, 17)),
    outputs=st.sampled_from((1, 8, 9, 33, 70)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    height=st.sampled_from((5, 6, 19)),
    peak=st.sampled_from((1, 127)),
    density=st.sampled_from((0.0, 0.2, 0.9)),
)
def test_currents_are_those_of_a_convolution(
    seed, instructions, dtype, groups, inputs, outputs, kernel, stride, dilation, padding, height, peak, density
):
    train = drawn(seed, peak, density, 2, 2, groups * inputs, height, 7)
    weight = drawn(seed + 1, 9, 1.0, groups * outputs, inputs, *kernel).to(dtype)
    geometry = Geometry(kernel, stride, (padding[0],) * 2 + (padding[1],) * 2, dilation, groups)
    expected = F.conv2d(train.flatten(0, 1).double(), weight.double(), None, stride, padding, dilation, groups)
    expected = expected.to(dtype).unflatten(0, (2, 2)).permute(0, 1, 3, 4, 2)
    with kernels.using(instructions):
        out = torch.full(expected.shape, 7.0, dtype=dtype)
        packed = kernels.pack_currents(weight, geometry, dtype)
        kernels.currents(packed, train, out, adds=False)
        assert torch.equal(out, expected)
        kernels.currents(packed, train, out, adds=True)
        assert torch.equal(out, 2 * expected)


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
@pytest.mark.parametrize("channels", [1, 5, 16, 40])
def test_each_channel_may_have_weights_of_its_own(instructions, channels):
    train, weight = drawn(0, 3, 0.5, 3, 1, channels, 6, 9), drawn(1, 9, 1.0, channels, 1, 3, 3).double()
    geometry = Geometry((3, 3), (2, 1), (1, 1, 1, 1), groups=channels)
    expected = F.conv2d(train.flatten(0, 1).double(), weight, None, (2, 1), 1, 1, channels).unflatten(0, (3, 1))
    packed = kernels.pack_currents(weight, geometry, torch.float64)
    assert packed.own
    with kernels.using(instructions):
        out = torch.empty(3, 1, 3, 9, channels, dtype=torch.float64)
        kernels.currents(packed, train, out, adds=False)
    assert torch.equal(out, expected.permute(0, 1, 3, 4, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": torch.zeros(2, 3, 4, 6, 6)},
        {"train": torch.zeros(2, 3, 5, 6, 6, dtype=torch.int8)},
        {"out": torch.zeros(2, 3, 6, 6, 5)},
        {"out": torch.zeros(2, 3, 6, 6, 4).double()},
        {"out": torch.zeros(2, 3, 4, 6, 6).double().permute(0, 1, 3, 4, 2)},
        {"dtype": torch.float32},
        {"groups": 2},
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    def written(train=None, out=None, dtype=torch.float64, groups=1):
        weight = torch.ones(5, 4 // groups, 3, 3) if groups == 1 else torch.ones(5, 2, 3, 3).repeat(2, 1, 1, 1)
        packed = kernels.pack_currents(weight, Geometry((3, 3), padding=(1, 1, 1, 1), groups=groups), dtype)
        train = torch.zeros(2, 3, 4, 6, 6, dtype=torch.int8) if train is None else train
        kernels.currents(packed, train, torch.zeros(2, 3, 6, 6, 5).double() if out is None else out, adds=False)

    written()
    with pytest.raises((ValueError, RuntimeError), match=r"does not fit|must be|shape"):
        written(**wrong)
