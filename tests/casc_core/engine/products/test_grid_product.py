"""Products on grids: exact, rounded once to the drive's grid and again to the neurons', by whole numbers of any size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from engines import COMPILED, driven_spikes
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF, IF, Exact, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.grid_product import GridProduct, Grids
from casc_core.engine.products.input_product import ConvolutionSums, InputWeights, LinearSums
from casc_core.numerics import on_grid

NUMERICS = Exact(16)
INPUTS, WEIGHTS = -16, -12


def drawn(rng, exponent, *shape):
    return on_grid(torch.tensor(rng.normal(size=shape)), exponent)


def linear(rng, product, biased):
    """Of 4 vectors of 9, for 5 outputs; and its sums as fractions."""
    x, weight = drawn(rng, INPUTS, 4, 9), drawn(rng, WEIGHTS, 5, 9)
    bias = drawn(rng, product, 5) if biased else None
    made = GridProduct(
        x, InputWeights.on_grid(weight), LinearSums(), bias, torch.Size([4, 5]), Grids(INPUTS, WEIGHTS, product),
        NUMERICS, "first",
    )  # fmt: skip
    rows = [[sum((Fraction(a) * Fraction(b) for a, b in zip(r, w, strict=True)), Fraction(0)) for w in weight.tolist()]
            for r in x.tolist()]  # fmt: skip
    return made, bias, rows


def rounded(value, exponent):
    """To a multiple of `2**exponent`, half to even."""
    return round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent


def settled(drive, threshold, potential, total):
    return max(0, min(total, (drive * total + potential) // threshold))


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    product=st.sampled_from((-20, -18, -27)),
    exponent=st.sampled_from((-16, -10, -6)),
    biased=st.booleans(),
    instructions=st.sampled_from(COMPILED or (None,)),
)
def test_values_are_rounded_twice(seed, product, exponent, biased, instructions):
    rng = np.random.default_rng(seed)
    made, bias, rows = linear(rng, product, biased)
    added = [Fraction(0)] * 5 if bias is None else [Fraction(each) for each in bias.tolist()]
    expected = [[rounded(sums, product) + more for sums, more in zip(row, added, strict=True)] for row in rows]
    with kernels.using(instructions):
        assert [[Fraction(each) for each in row] for row in made.values().tolist()] == expected
        twice = [[rounded(each, exponent) for each in row] for row in expected]
        assert [[Fraction(each) for each in row] for row in made.on_grid(NUMERICS, exponent).tolist()] == twice


@pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    product=st.sampled_from((-20, -18, -27)),
    exponent=st.sampled_from((-16, -12, -10)),
    biased=st.booleans(),
    neuron=st.sampled_from((IF(), CIF(), None)),
    instructions=st.sampled_from(COMPILED),
)
def test_a_population_settles_as_its_drive_says(seed, product, exponent, biased, neuron, instructions):
    rng = np.random.default_rng(seed)
    made, _, _ = linear(rng, product, biased)
    thresholds = on_grid(0.5 + drawn(rng, exponent, 5).abs(), exponent)
    potential, awake = 2.0 ** (exponent + 1), WakeSleep(4, 4).awake(4)
    taken = KernelNeuron.levels(4) if neuron is None else KernelNeuron.spiking(neuron, awake, None)
    with kernels.using(instructions):
        spikes = driven_spikes(made, made.shape, exponent, thresholds, potential, float("inf"), taken, 0, None)
        drive = made.on_grid(NUMERICS, exponent)
    assert spikes is not None
    for counts, row in zip(spikes.sum(0).tolist(), drive.tolist(), strict=True):
        for count, *numbers in zip(counts, row, thresholds.tolist(), strict=True):
            assert count == settled(*map(Fraction, (*numbers, potential)), 4)


@pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
def test_edges_are_decided_by_the_product_on_its_grid():
    """The middle between two multiples of the drive's grid rounds to even, here up; what is just below it, down."""
    x = torch.tensor([[1.0, 0.0], [1.0, -(2.0**INPUTS)]], dtype=torch.float64)
    weight = torch.tensor([[1.0 - 2.0**-11, 2.0**WEIGHTS]], dtype=torch.float64)
    made = GridProduct(
        x, InputWeights.on_grid(weight), LinearSums(), None, torch.Size([2, 1]), Grids(INPUTS, WEIGHTS, -10), NUMERICS,
        "first",
    )  # fmt: skip
    spikes = driven_spikes(made, made.shape, -14, 1.0, 0.0, float("inf"), KernelNeuron.levels(1), 0, None)
    assert spikes is not None
    assert spikes.flatten().tolist() == [1, 0]


@pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
def test_what_float64_does_not_hold_in_one_part_is_left_to_others():
    x, weight = torch.full((2, 3), 2.0**9).double(), torch.ones(4, 3).double()

    def taken(grid):
        made = GridProduct(
            x, InputWeights.on_grid(weight), LinearSums(), None, torch.Size([2, 4]), Grids(-16, grid, -14), NUMERICS,
            "first",
        )  # fmt: skip
        return driven_spikes(made, made.shape, -10, 1.0, 0.0, float("inf"), KernelNeuron.levels(4), 0, None)

    assert taken(-24) is not None
    assert taken(-30) is None


@pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
def test_convolutions_too():
    rng = np.random.default_rng(0)
    x, weight = drawn(rng, INPUTS, 2, 3, 6, 5), drawn(rng, WEIGHTS, 4, 3, 3, 3)
    sums = ConvolutionSums(Geometry((3, 3), padding=(1, 1, 1, 1)), 2)
    made = GridProduct(
        x, InputWeights.on_grid(weight), sums, drawn(rng, -20, 4), torch.Size([2, 4, 6, 5]), Grids(INPUTS, WEIGHTS, -20),
        NUMERICS, "first",
    )  # fmt: skip
    spikes = driven_spikes(made, made.shape, -14, 0.75, 0.0, float("inf"), KernelNeuron.levels(8), 0, None)
    assert spikes is not None
    drive = made.on_grid(NUMERICS, -14)
    assert torch.equal(spikes[0].double(), ((drive * 8) / 0.75).floor().clamp(0, 8))
