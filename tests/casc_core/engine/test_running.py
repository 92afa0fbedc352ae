"""Running functions: their differences add up to the function of the final totals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF, AsTrained, Exact, ExactnessError, InputError, WakeSleep
from casc_core.engine.level_run import LevelRun
from casc_core.engine.ops import LevelTable
from casc_core.engine.products.contraction import Contraction
from casc_core.engine.running import running_product
from casc_core.engine.signal import Signal
from casc_core.engine.spiking_run import SpikingRun

SHAPES = (((3,), (3,)), ((2, 3), (3,)), ((2, 1, 1), (2, 4, 5)), ((4, 5), (2, 3, 1, 1)))


def whole_signal(random, shape, steps, peak, wake, driven, divided, kind):
    """A signal of whole numbers, and its total in the end."""
    train = random.integers(-peak, peak + 1, (steps, *shape))
    drive = random.integers(-5, 6, shape) if driven else None
    divisor = random.integers(1, 4, shape) if divided else None
    tensors = (None if each is None else torch.tensor(each, dtype=torch.float64) for each in (drive, divisor))
    total = train.sum(0) + (0 if drive is None else wake * drive)
    # Of a neuron that spikes once a step, a train of `steps` steps reaches no more than it would in the wake steps.
    bound = peak * max(1.0, steps / wake)
    return Signal(torch.tensor(train).to(kind), *tensors, bound), total, divisor


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    shapes=st.sampled_from(SHAPES),
    peak=st.sampled_from((1, 3, 2000)),
    driven=st.sampled_from(((False, False), (True, False), (True, True))),
    divided=st.sampled_from(((False, False), (True, False), (True, True))),
    kind=st.sampled_from((torch.int32, torch.float64)),
    wake=st.integers(1, 4),
)
def test_a_product_is_that_of_the_final_totals(seed, shapes, peak, driven, divided, kind, wake):
    random = np.random.default_rng(seed)
    a, total_a, divisor_a = whole_signal(random, shapes[0], 5, peak, wake, driven[0], divided[0], kind)
    b, total_b, divisor_b = whole_signal(random, shapes[1], 2, peak, wake, driven[1], divided[1], kind)
    run = SpikingRun(AsTrained(), CIF(), WakeSleep(wake, 1), None)
    product = running_product(run, a, b, 0, "a gate")
    assert product.drive is None
    np.testing.assert_array_equal(product.train.double().sum(0), total_a * total_b)
    assert float(product.train.abs().max()) <= product.bound * run.peak
    assert float(product.train.double().cumsum(0).abs().max()) <= product.bound * run.total
    divisors = [each for each in (divisor_a, divisor_b) if each is not None]
    if not divisors:
        assert product.divisor is None
    else:
        assert product.divisor.dim() == len(product.shape)
        expected = np.broadcast_to(np.prod(np.broadcast_arrays(*divisors), 0), product.shape)
        np.testing.assert_array_equal(product.divisor.expand(product.shape), expected)


CONTRACTIONS = {
    "...ik,...kj->...ij": ((2, 3, 4), (4, 2)),
    "bhld,bhdm->bhlm": ((2, 1, 3, 2), (2, 2, 2, 3)),
    "bchw,bkc->bkhw": ((2, 3, 2, 1), (2, 4, 3)),
    "bi,bi->b": ((2, 5), (2, 5)),
}


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    equation=st.sampled_from(sorted(CONTRACTIONS)),
    peak=st.sampled_from((1, 3, 2000)),
    driven=st.sampled_from(((False, False), (True, False), (True, True))),
    divided=st.sampled_from(((False, False), (True, False), (True, True))),
    kind=st.sampled_from((torch.int8, torch.int32, torch.float64)),
    wake=st.integers(1, 4),
    rounds=st.booleans(),
)
def test_a_matrix_product_is_that_of_the_final_totals(seed, equation, peak, driven, divided, kind, wake, rounds):
    random = np.random.default_rng(seed)
    peak = min(peak, 100) if kind == torch.int8 else peak
    given = zip(CONTRACTIONS[equation], (5, 2), driven, strict=True)
    (a, total_a, _), (b, total_b, _) = (
        whole_signal(random, shape, steps, peak, wake, drives, False, kind) for shape, steps, drives in given
    )
    numbers = [torch.tensor(random.integers(1, 4, 2 if seed % 2 else ())).double() for _ in range(2)]
    # One for all, or one for each sample: along the first dimension of both, if both are batches.
    batched = len(a.shape) == len(b.shape) or seed % 2 == 0
    a, b = (
        replace(x, divisor=each.reshape(-1, *[1] * (len(x.shape) - 1)) if seed % 2 else each) if own and batched else x
        for x, each, own in zip((a, b), numbers, divided, strict=True)
    )
    run = SpikingRun(AsTrained(), CIF(), WakeSleep(wake, 1), None)
    product = running_product(run, a, b, 0, "attention", [0, 0] if rounds else None, Contraction(equation))
    assert product.drive is None
    np.testing.assert_array_equal(product.train.double().sum(0), np.einsum(equation, total_a, total_b))
    assert float(product.train.abs().max()) <= product.bound * run.peak
    assert float(product.train.double().cumsum(0).abs().max()) <= product.bound * run.total
    expected = [torch.ones(()) if x.divisor is None else x.divisor.expand(x.shape) for x in (a, b)]
    if product.divisor is not None:
        assert product.divisor.dim() in (0, len(product.shape))
        sizes = np.einsum(equation, *(np.ones(x.shape) for x in (a, b)))
        weighted = np.einsum(
            equation, *(np.broadcast_to(each, x.shape) for each, x in zip(expected, (a, b), strict=True))
        )
        np.testing.assert_array_equal(product.divisor.expand(product.shape), weighted / sizes)


def test_a_sum_over_other_divisors_is_refused():
    run = SpikingRun(AsTrained(), CIF(), WakeSleep(4, 1), None)
    a = Signal(torch.ones(4, 2, 3, dtype=torch.int8), None, torch.tensor([1.0, 2.0, 3.0]).double(), 1.0)
    with pytest.raises(InputError, match="a sum over dimension -1 of values divided by numbers that differ"):
        running_product(run, a, a, 0, "attention", None, Contraction("bi,bi->b"))


@given(seed=st.integers(0, 2**32 - 1), lowest=st.integers(-6, 0), highest=st.integers(1, 6), steps=st.integers(0, 12))
def test_a_table_gives_the_function_of_the_final_counts(seed, lowest, highest, steps):
    random = np.random.default_rng(seed)
    counts = np.cumsum([np.zeros(5, int), *random.integers(-1, 2, (steps, 5))], 0).clip(lowest, highest)
    table = random.integers(-99, 100, highest - lowest + 1) / 8
    table[-lowest] = 0.0
    op = LevelTable(lowest=lowest, exponent=-3, table=torch.tensor(table))
    for run, train in (
        (SpikingRun(AsTrained(), CIF(), WakeSleep(6, 1), None), np.diff(counts, axis=0)),
        (LevelRun(AsTrained(), 6), counts[-1:]),
    ):
        result = op(run, Signal(torch.tensor(train).to(torch.int8), None, None, 1.0))
        np.testing.assert_array_equal(result.train.sum(0), table[counts[-1] - lowest])
        assert not result.steps or float(result.train.abs().max()) <= result.bound * run.peak
        assert not result.steps or float(result.total.abs().max()) <= result.bound * run.total


def test_spikes_stay_small_numbers():
    run = SpikingRun(AsTrained(), CIF(), WakeSleep(4, 1), None)
    a, b = (Signal(torch.ones(4, 2, dtype=torch.int8), None, None, 1.0) for _ in range(2))
    product = running_product(run, a, b, 0, "a gate")
    assert product.train.dtype == torch.int8
    assert product.train[:, 0].tolist() == [1, 3, 5, 7]


def test_in_levels_it_is_one_product():
    counts = torch.tensor([[3, -2]], dtype=torch.int16)
    a, b = (Signal(counts, None, None, 1.0) for _ in range(2))
    assert running_product(LevelRun(AsTrained(), 4), a, b, 0, "a gate").train.tolist() == [[9, 4]]


@pytest.mark.parametrize("numerics", [AsTrained(), Exact()])
def test_what_no_type_holds_is_refused(numerics):
    run = SpikingRun(numerics, CIF(), WakeSleep(4, 1), None)
    a = Signal(torch.full((1, 1), 2.0**-30, dtype=torch.float64), None, None, 1.0)
    with pytest.raises(ExactnessError, match="the gate: sums may reach"):
        running_product(run, a, a, -60, "the gate")


def test_nothing_arrives():
    run = SpikingRun(AsTrained(), CIF(), WakeSleep(4, 1), None)
    nothing = Signal(torch.zeros(0, 2, dtype=torch.int8), None, None, 1.0)
    product = running_product(run, nothing, nothing, 0, "a gate")
    assert product.train.shape == (0, 2)
