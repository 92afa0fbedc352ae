"""Products: the same bits by every way, and a plan that follows the measured speeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import COMPILED, ENGINES, engine
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.engine import kernels
from casc_core.engine.products import spike_product as product
from casc_core.engine.products.spike_product import Product, Speeds, limbs_of


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    way=st.sampled_from(ENGINES),
    shape=st.sampled_from(((1,), (2, 3), (40,), ())),
    inputs=st.sampled_from((1, 7, 64, 300)),
    outputs=st.sampled_from((1, 4, 33)),
    bits=st.sampled_from((2, 8, 16, 24)),
    peak=st.sampled_from((1, 5, 127)),
    dtype=st.sampled_from((torch.int8, torch.int32, torch.float64)),
)
def test_every_way_gives_the_integer_product(seed, way, shape, inputs, outputs, bits, peak, dtype):
    rng = np.random.default_rng(seed)
    largest = 2 ** (bits - 1) - 1
    weight = rng.integers(-largest, largest + 1, (outputs, inputs))
    train = rng.integers(-peak, peak + 1, (3, *shape, inputs))
    expected = (train @ weight.T) / 2.0**7
    with engine(way):
        found = Product()(torch.tensor(train).to(dtype), torch.tensor(weight / 2.0**7), -7, peak, torch.float64)
    assert found.dtype == torch.float64
    np.testing.assert_array_equal(found.numpy(), expected)


@given(st.lists(st.integers(-(2**23), 2**23), min_size=1, max_size=5), st.integers(-9, 9))
def test_limbs_add_up(values, exponent):
    weight = torch.tensor([values], dtype=torch.float64) * 2.0**exponent
    limbs = limbs_of(weight, exponent)
    whole = sum(limb.double() * 256.0**place for place, limb in enumerate(limbs.limbs))
    assert torch.equal(whole.T * 2.0**exponent, weight)
    assert len(limbs.limbs) <= next(n for n in range(1, 5) if max(map(abs, values)) < 127 * 256 ** (n - 1) or n == 4)


def test_weights_off_the_grid_have_no_limbs():
    assert limbs_of(torch.tensor([[0.3]]), 0) is None


@pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        # The last step is like the one before, so by rows it costs nothing.
        (Speeds(float32=1e-12, float64=1.0, int8=1.0, row=1.0), (3, "float")),
        (Speeds(float32=1.0, float64=1.0, int8=1e-12, row=1.0), (3, "int8")),
        (Speeds(float32=1.0, float64=1.0, int8=1.0, row=1e-12), (0, "float")),
        # A row costs as much as three dense ones: the first two steps, half full, go dense, the last two do not.
        (Speeds(float32=1.0, float64=1.0, int8=9.0, row=3.0), (2, "float")),
    ],
)
def test_the_plan_follows_what_was_measured(monkeypatch, speeds, expected):
    monkeypatch.setattr(product, "speeds", lambda threads: speeds)
    if expected[1] == "int8" and not product._int8_is_exact():
        pytest.skip("torch has no exact int8 product here")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-100, 100, (256, 256), generator=generator).double()
    train = torch.zeros(4, 64, 256, dtype=torch.int8)
    train[:2] = torch.randint(0, 2, (2, 64, 256), generator=generator, dtype=torch.int8)
    train[2:, :, :3] = 1
    made, packed, limbs = Product(), kernels.pack(weight, 0, 1), limbs_of(weight, 0)
    assert made._plan(train, weight, packed, limbs, torch.float32) == expected
    assert torch.equal(made(train, weight, 0, 1, torch.float32), (train.double() @ weight.T).float())


def test_measured_speeds_are_seconds():
    measured = product.speeds(torch.get_num_threads())
    assert 0 < measured.float32 < 1e-6
    assert 0 < measured.float64 < 1e-6
    assert measured.int8 > 0
    assert measured.row > 0


def test_a_processor_whose_int8_saturates_is_not_trusted(monkeypatch):
    honest = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda x, y: honest(x, y).clamp(-(2**15), 2**15 - 1))
    product._int8_is_exact.cache_clear()
    try:
        assert not product._int8_is_exact()
    finally:
        product._int8_is_exact.cache_clear()


def test_changed_weights_are_noticed():
    train, weight, made = torch.ones(1, 2, 3, dtype=torch.int8), torch.ones(4, 3), Product()
    assert float(made(train, weight, 0, 1, torch.float32)[0, 0, 0]) == 3
    weight[0, 0] = 5
    assert float(made(train, weight, 0, 1, torch.float32)[0, 0, 0]) == 7
    with torch.inference_mode():
        inside = torch.full((4, 3), 2.0)
        assert float(made(train, inside, 0, 1, torch.float32)[0, 0, 0]) == 6


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="one of"), product.only("magic"):
        pass


def test_limbs_are_left_alone_where_their_sums_leave_int32():
    weight = torch.full((2, 140_000), 256 * 300 - 128.0, dtype=torch.float64)
    weight[1] *= -1
    train = torch.full((1, 1, 140_000), 127, dtype=torch.int8)
    with product.only("int8"):
        found = Product()(train, weight, 0, 127, torch.float64)
    assert torch.equal(found, train.double() @ weight.T)
