"""The compiled levels behind convolutions against plain integers, under every set of instructions of this machine."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from casc_core.engine import kernels
from casc_core.engine.kernels import loader
from casc_core.engine.products.geometry import Geometry

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
EXPONENT = -36
# Output and input channels of one group, and groups.
CHANNELS = (
    (1, 1, 1), (3, 2, 1), (17, 9, 1), (33, 3, 1), (48, 20, 1), (16, 40, 1), (1, 1, 5), (1, 1, 40), (1, 2, 19), (3, 1, 3),
    (3, 2, 17), (24, 3, 2), (50, 2, 3),
)  # fmt: skip


class Term:
    """Levels and their filter, at random, whose outputs have a size that is given."""

    def __init__(self, rng, out, samples, channels, bits, level, point=False):
        each_out, each_in, groups = channels
        kernel, stride, dilation = (rng.integers(1, 1 if point else most, 2, endpoint=True) for most in (4, 2, 2))
        padding = [0, 0, 0, 0] if point else rng.integers(0, 3, 4).tolist()
        size = []
        for axis in (0, 1):
            around = slice(2 * axis, 2 * axis + 2)
            reach = (out[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
            padding[around] = np.minimum(padding[around], [reach - 1, max(0, reach - 1 - padding[2 * axis])]).tolist()
            size.append(int(reach) - sum(padding[around]))
        self.geometry = Geometry(
            *(tuple(np.asarray(each).tolist()) for each in (kernel, stride, padding, dilation)), groups
        )
        self.weight = rng.integers(-(2**bits), 2**bits + 1, (each_out * groups, each_in, *kernel))
        self.weight[rng.random(self.weight.shape) < 0.2] = 0
        self.level = level
        self.levels = rng.integers(
            -level if rng.random() < 0.2 else 0, level, (samples, each_in * groups, *size), endpoint=True
        )

    def sums(self):
        """`[samples, channels, height, width]` int64."""
        g, (top, bottom, left, right) = self.geometry, self.geometry.padding
        x = F.pad(torch.tensor(self.levels).double(), (left, right, top, bottom))
        return F.conv2d(x, torch.tensor(self.weight).double(), None, g.stride, 0, g.dilation, g.groups).long().numpy()


def levels_of(terms, thresholds, begin, total):
    """Those of the kernel, begin `[samples, channels, height, width]` or `[channels]`."""
    unit = 2.0**EXPONENT
    given_terms = [(torch.tensor(t.weight * unit), t.geometry, EXPONENT, t.level) for t in terms]
    population = kernels.dense_population(
        given_terms, EXPONENT, torch.tensor(thresholds * unit), float(np.abs(begin).max() * unit), total
    )
    assert population is not None
    values = torch.tensor(begin * unit)
    values = values if values.dim() == 1 else values.permute(0, 2, 3, 1)
    trains = [torch.tensor(t.levels).to(torch.int8) for t in terms]
    size = terms[0].geometry.output_size(*terms[0].levels.shape[2:])
    return kernels.dense(population, population.begin(values), trains, size).numpy()


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=st.sampled_from(COMPILED_OR_EMULATED),
    channels=st.sampled_from(CHANNELS),
    size=st.sampled_from(((1, 1), (1, 7), (5, 1), (3, 4), (9, 2), (2, 19))),
    samples=st.sampled_from((1, 2, 5)),
    bits=st.sampled_from(((0, 3), (15, 15), (14, 9), (26, 26), (30, 20), (18, 33))),
    total=st.sampled_from((1, 4, 8, 127)),
    two=st.booleans(),
    by_position=st.booleans(),
    near=st.sampled_from((0.0, 0.3, 1.0)),
)
@example(0, COMPILED[-1], (17, 9, 1), (3, 4), 2, (26, 26), 127, True, True, 1.0)
@example(1, COMPILED[-1], (3, 2, 17), (2, 19), 1, (26, 20), 8, True, True, 1.0)
@example(2, COMPILED[-1], (1, 1, 40), (3, 4), 2, (33, 33), 8, False, True, 1.0)
def test_levels(seed, instructions, channels, size, samples, bits, total, two, by_position, near):
    """`near`: how many sums lie on a threshold, or one unit beside it."""
    rng = np.random.default_rng(seed)
    outputs = channels[0] * channels[2]
    terms = [Term(rng, size, samples, channels, bits[0], total)]
    if two:
        other = (1, 1, outputs) if rng.random() < 0.5 else (outputs, 3, 1)
        terms.append(Term(rng, size, samples, other, bits[1], total, point=True))
    sums = sum(term.sums() for term in terms)
    thresholds = rng.integers(1, 2 + 2 ** max(bits), outputs)
    by_channel = thresholds[:, None, None]
    begin = rng.integers(-(2 ** max(bits)), 2 ** max(bits), sums.shape if by_position else outputs, endpoint=True)
    if by_position:
        beside = rng.integers(0, total + 1, sums.shape, endpoint=True) * by_channel + rng.integers(-1, 2, sums.shape)
        begin = np.where(rng.random(sums.shape) < near, beside - sums, begin)
    reach = np.abs(begin).max() + sum(t.level * np.abs(t.weight).sum((1, 2, 3)).max() for t in terms)
    assume(reach < 2**52)
    assume((thresholds * (total + 1) + reach < thresholds * 2**29).all())  # else a threshold may be nothing in int32
    received = sums + (begin if by_position else begin[:, None, None])
    with kernels.using(instructions):
        found = levels_of(terms, thresholds, begin, total)
    np.testing.assert_array_equal(found, np.clip(received // by_channel, 0, total))


@pytest.mark.parametrize("instructions", COMPILED)
@pytest.mark.parametrize(
    ("channels", "size", "samples", "room"),
    [
        ((70, 5, 1), (13, 6), 3, 600),
        ((40, 4, 1), (33, 2), 1, 100),
        ((3, 2, 20), (2, 5), 2, 2**17),
        ((2, 3, 1), (40, 3), 9, 1),
    ],
)
def test_bands_parts_and_threads_change_nothing(instructions, channels, size, samples, room, monkeypatch):
    rng = np.random.default_rng(1)
    terms = [Term(rng, size, samples, channels, 26, 8), Term(rng, size, samples, channels, 24, 8)]
    sums = sum(term.sums() for term in terms)
    thresholds = rng.integers(2**24, 2**28, len(sums[0]))
    expected = np.clip(sums // thresholds[:, None, None], 0, 8)
    assert len(np.unique(expected)) > 3
    monkeypatch.setattr(loader, "_WORTH_THREADS", 0)
    monkeypatch.setattr(loader._Team, "is_worth_it", lambda self: True)
    monkeypatch.setattr(sys.modules[kernels.DensePopulation.__module__], "_INPUT_BYTES", room)
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            with kernels.using(instructions):
                found = levels_of(terms, thresholds, np.zeros(len(thresholds), dtype=np.int64), 8)
        finally:
            torch.set_num_threads(threads)
        np.testing.assert_array_equal(found, expected)


def test_it_is_asked_again_of_other_numbers_and_shapes():
    rng = np.random.default_rng(2)
    terms = [Term(rng, (6, 5), 2, (20, 6, 1), 20, 8)]
    thresholds = torch.tensor(rng.integers(2**16, 2**22, 20) * 2.0**EXPONENT)
    weight, geometry = torch.tensor(terms[0].weight * 2.0**EXPONENT), terms[0].geometry
    population = kernels.dense_population([(weight, geometry, EXPONENT, 8)], EXPONENT, thresholds, 0.0, 8)
    begin = population.begin(torch.zeros(20, dtype=torch.float64))
    levels = torch.tensor(terms[0].levels).clamp(min=0).to(torch.int8)
    size = geometry.output_size(*levels.shape[2:])
    first = kernels.dense(population, begin, [levels], size)
    other = kernels.dense(population, begin, [levels.flip(0)], size)
    one = kernels.dense(population, begin, [levels[1:]], size)
    assert torch.equal(first.flip(0), other)
    assert torch.equal(first[1:], one)
    assert not torch.equal(first, other)
    copied, own = copy.deepcopy((population, begin))
    assert torch.equal(kernels.dense(copied, own, [levels[1:]], size), one)


def test_int32_may_not_hold_a_threshold():
    weight = torch.tensor([[[[2.0**30]]]], dtype=torch.float64)
    term = [(weight, Geometry((1, 1)), 0, 8)]
    assert kernels.dense_population(term, 0, torch.ones(1, dtype=torch.float64), 0.0, 8) is None
    assert kernels.dense_population(term, 0, torch.full((1,), 2.0**29, dtype=torch.float64), 0.0, 8) is not None
