"""The geometry of convolutions, and their sums, against torch's own on whole numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from casc_core import InputError
from casc_core.engine.products import geometry
from casc_core.engine.products.geometry import Geometry, convolve, patches

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
GEOMETRIES = st.builds(
    Geometry,
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=PAIRS,
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=PAIRS,
    groups=st.sampled_from((1, 2, 3)),
)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def fits(shape: Geometry, size: tuple[int, int]) -> bool:
    return all(
        size[axis] + sum(shape.padding[2 * axis : 2 * axis + 2]) > shape.dilation[axis] * (shape.kernel[axis] - 1)
        for axis in (0, 1)
    )


def torchs(x, weight, shape):
    top, bottom, left, right = shape.padding
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, shape.stride, 0, shape.dilation, shape.groups)


def numbers(seed, *shape):
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).double()


@given(
    shape=GEOMETRIES, size=SIZES, samples=st.sampled_from((1, 3)), outputs=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_convolve_is_torchs(shape, size, samples, outputs, seed):
    assume(fits(shape, size))
    x = numbers(seed, samples, 2 * shape.groups, *size)
    weight = numbers(seed + 1, outputs * shape.groups, 2, *shape.kernel)
    expected = torchs(x, weight, shape)
    assert expected.shape[2:] == shape.output_size(*size)
    for same in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        found = convolve(same, weight, shape)
        assert torch.equal(found, expected)
    assert torch.equal(convolve(x.float(), weight.float(), shape), expected.float())


@given(shape=GEOMETRIES, size=SIZES)
def test_fan_out_is_the_gradient_of_the_sum_of_outputs(shape, size):
    assume(fits(shape, size))
    x = torch.zeros(1, shape.groups, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.ones(shape.groups, 1, *shape.kernel, dtype=torch.float64)
    torchs(x, weight, shape).sum().backward()
    for channel in x.grad[0]:
        assert torch.equal(shape.fan_out(*size), channel)


@given(shape=GEOMETRIES, size=SIZES, seed=st.integers(0, 99))
def test_patches_are_what_each_output_reads(shape, size, seed):
    assume(fits(shape, size))
    x = numbers(seed, 2, 3, *size)
    found = patches(x, shape)
    height, width = shape.output_size(*size)
    top, bottom, left, right = shape.padding
    unfolded = F.unfold(F.pad(x, (left, right, top, bottom)), shape.kernel, shape.dilation, 0, shape.stride)
    expected = unfolded.reshape(2, 3, *shape.kernel, height, width).permute(0, 4, 5, 1, 2, 3)
    assert torch.equal(found, expected)


def test_many_samples_are_taken_a_few_at_a_time(monkeypatch):
    x, weight, shape = numbers(0, 7, 4, 6, 5), numbers(1, 6, 2, 3, 3), Geometry((3, 3), padding=(1, 1, 1, 1), groups=2)
    expected = convolve(x, weight, shape)
    for size in (1, 20_000):
        monkeypatch.setattr(geometry, "PATCH_BYTES", size)
        assert torch.equal(convolve(x, weight, shape), expected)


def test_no_samples_and_no_taps_in_the_image():
    shape = Geometry((2, 2), dilation=(5, 5), padding=(4, 4, 4, 4))
    x, weight = numbers(0, 2, 1, 1, 1), numbers(1, 1, 1, 2, 2)
    assert torch.equal(convolve(x, weight, shape), torchs(x, weight, shape))
    assert convolve(x[:0], weight, shape).shape == (0, 1, *shape.output_size(1, 1))


def test_sums_are_not_rounded_where_a_transform_would():
    """Whole numbers close to the end of float32's: Winograd's fractions would not survive."""
    shape = Geometry((3, 3), padding=(1, 1, 1, 1))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (2, 64, 16, 16), generator=generator).double()
    weight = torch.randint(-(2**14), 2**14, (64, 64, 3, 3), generator=generator).double()
    assert float(weight.abs().flatten(1).sum(1).max()) < 2**24
    found = convolve(x.float(), weight.float(), shape)
    assert torch.equal(found.double(), torchs(x, weight, shape).round())


@pytest.mark.parametrize(("size", "padded", "spans"), [((2, 9), 2, 3), ((9, 2), 4, 5)])
def test_too_small(size, padded, spans):
    with pytest.raises(InputError, match=f"a padded size of {padded} is too small for a kernel that spans {spans}"):
        Geometry((3, 3), dilation=(1, 2), padding=(0, 0, 1, 1)).output_size(*size)
