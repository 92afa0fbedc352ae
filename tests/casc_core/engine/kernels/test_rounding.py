"""The kernel that rounds sums: it may rest on the errors that it is told, and on no less, against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core.engine import kernels
from casc_core.engine.kernels import Reads, Rounds, SplitWeights

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=st.sampled_from(COMPILED_OR_EMULATED),
    groups=st.sampled_from((1, 2)),
    terms=st.sampled_from((1, 7, 8, 19)),
    outputs=st.sampled_from((2, 6, 70)),
    biased=st.booleans(),
    off=st.sampled_from((0, 1, 3)),
    spoilt=st.booleans(),
)
def test_sums_are_rounded_as_the_exact_ones_whatever_error_they_have(
    seed, instructions, groups, terms, outputs, biased, off, spoilt
):
    """All numbers are sixteenths of what sums are rounded to: most sums are near the middle between two multiples."""
    rng = np.random.default_rng(seed)
    positions, exponent = 6, -3
    x = rng.integers(-4, 5, (positions, groups * terms)) * np.where(rng.random() < 0.5, 1, 2)
    weight = rng.integers(-16, 17, (outputs, terms))
    bias = rng.integers(-16, 17, outputs)
    group = np.arange(outputs) * groups // outputs
    each = x.reshape(positions, groups, terms)[:, group]  # [positions, outputs, terms]
    sums = (each * weight).sum(2)
    unit = 2.0 ** (exponent - 4)
    # Every sum is off by as much as it may be, or not at all.
    error = off / 16 * 2.0**exponent
    given_sums = torch.tensor(sums * unit + error * rng.integers(-1, 2, sums.shape))
    # The weights' lower part is off too: by this for each input that it meets.
    noise = unit / 8 if spoilt else 0.0
    high = torch.tensor(weight // 4 * 4.0)
    low = torch.tensor(weight % 4 * 1.0) + noise / unit * torch.tensor(rng.integers(-1, 2, (outputs, 1)))
    rest_error = float(np.abs(each).sum(2).max()) * noise
    reads = Reads(torch.tensor(x * unit), 1, positions, (x.size, 0, groups * terms, terms), groups, torch.arange(terms))
    with kernels.using(instructions):
        given_bias = torch.tensor(bias * unit) if biased else None
        rounds = Rounds(exponent, given_bias, error, SplitWeights(high, low), -60, rest_error, math.inf, sums.size)
        near = kernels.round_sums(given_sums, reads, rounds)
    left = set(near.tolist())
    for place, (found, whole) in enumerate(zip(given_sums.flatten().tolist(), sums.flatten().tolist(), strict=True)):
        exact = Fraction(whole + (int(bias[place % outputs]) if biased else 0), 16)  # in multiples
        from_middle = abs(abs(exact - round(exact)) - Fraction(1, 2))
        if place in left:
            assert from_middle <= 2 * Fraction(rest_error * 2.0**-exponent)
        else:
            assert found == round(exact) * 2.0**exponent
    if not rest_error:
        assert not left


def test_more_than_there_is_room_for_is_said():
    x, weight = torch.ones(3, 1).double(), torch.full((4, 1), 0.5).double()
    reads = Reads(x, 1, 3, (3, 0, 1, 0), 1, torch.arange(1))
    for room, found in ((12, 12), (11, None)):
        sums = torch.full((3, 4), 0.5).double()
        rounds = Rounds(0, None, 0.25, SplitWeights(weight, 0 * weight), -20, 0.125, math.inf, room)
        near = kernels.round_sums(sums, reads, rounds)
        assert (near if near is None else len(near)) == found


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=st.sampled_from(COMPILED_OR_EMULATED),
    groups=st.sampled_from((1, 2, 3)),
    terms=st.sampled_from((1, 7, 64, 70)),
    each=st.sampled_from((1, 2, 8, 11)),
    in_parts=st.booleans(),
    biased=st.booleans(),
)
def test_products_are_summed_and_rounded_as_fractions_are(seed, instructions, groups, terms, each, in_parts, biased):
    """Inputs and weights have bits that float64's sums lose: only what is told of that may be left undecided."""
    rng = np.random.default_rng(seed)
    positions, outputs, split = 11, groups * each, -20
    x = rng.integers(-(2**30), 2**30, (positions, groups * terms)) * 2.0**-26
    high = rng.integers(-64, 65, (outputs, terms)) * 1.0
    low = rng.integers(-64, 65, (outputs, terms)) * 2.0**-30
    whole, bias = high + low, rng.integers(-9, 10, outputs) * 2.0**-3
    reads = Reads(torch.tensor(x), 1, positions, (x.size, 0, groups * terms, terms), groups, torch.arange(terms))
    reach = 16.0 * 65 * terms
    rest_error = (2 * terms + 16) * 2.0**-53 * (2.0**-20 * 65 + 16 * 2.0**-24) * terms
    rounds = Rounds(
        -12, torch.tensor(bias) if biased and not in_parts else None, None if in_parts else (terms + 8) * 2.0**-53 * reach,
        SplitWeights(torch.tensor(high), torch.tensor(low)), split, rest_error, math.inf, positions * outputs,
    )  # fmt: skip
    blocks = [kernels.in_blocks(torch.tensor(part), groups) for part in (whole, high, low)][: 3 if in_parts else 1]
    with kernels.using(instructions):
        found, near = kernels.rounded_products(reads, positions, tuple(blocks), outputs, rounds)
    left = set(near.tolist())
    assert len(left) < positions * outputs / 4
    for place, value in enumerate(found.flatten().tolist()):
        position, output = divmod(place, outputs)
        group = output // each
        read = x[position, group * terms : (group + 1) * terms]
        exact = sum((Fraction(a) * Fraction(b) for a, b in zip(read, whole[output], strict=True)), Fraction(0))
        exact += Fraction(bias[output]) if rounds.bias is not None else 0
        if place not in left:
            assert Fraction(value) == Fraction(round(exact * 2**12), 2**12)
