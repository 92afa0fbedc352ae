"""The compiled population behind convolutions against a slow loop, under every set of instructions of this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED, COMPILED_OR_EMULATED, convolution
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from spike_trains import spike_trains

from casc_core import CIF, IF, Continuous, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.kernels import Blocks, KernelNeuron, loader
from casc_core.engine.kernels.rows import SUMS16, SUMS32, WIDE
from casc_core.engine.products.geometry import Geometry

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
SCHEDULES = (WakeSleep(4, 4), WakeSleep(1, 1), WakeSleep(2, 1, 3), WakeSleep(2, 0, 2), Continuous())
# Output and input channels of one group, and groups.
CHANNELS = (
    (1, 1, 1), (3, 2, 1), (17, 9, 1), (65, 3, 1), (130, 8, 1), (64, 70, 1), (257, 1, 1), (1, 1, 5), (1, 1, 40), (1, 2, 33),
    (3, 1, 3), (3, 2, 17), (33, 1, 2), (50, 2, 3), (64, 1, 2), (65, 2, 2), (129, 1, 2),
)  # fmt: skip


class Term:
    """A train and its filter, at random, whose outputs have a size that is given."""

    def __init__(self, rng, out, samples, channels, steps, largest, shift, peak, point=False):
        each_out, each_in, groups = channels
        kernel, stride, dilation = (rng.integers(1, 1 if point else 4, 2, endpoint=True) for _ in range(3))
        stride, dilation = np.minimum(stride, 2), np.minimum(dilation, 2)
        padding = [0, 0, 0, 0] if point else rng.integers(0, 3, 4).tolist()
        size = [
            (out[axis] - 1) * stride[axis]
            + dilation[axis] * (kernel[axis] - 1)
            + 1
            - sum(padding[2 * axis : 2 * axis + 2])
            for axis in (0, 1)
        ]
        for axis in (0, 1):  # an input has at least one row
            lacking = max(0, 1 - size[axis])
            size[axis] += lacking
            padding[2 * axis] -= min(lacking, padding[2 * axis])
        self.geometry = Geometry(
            tuple(kernel.tolist()), tuple(stride.tolist()), tuple(padding), tuple(dilation.tolist()), groups
        )
        self.weight = rng.integers(-largest, largest + 1, (each_out * groups, each_in, *kernel))
        self.weight[rng.random(self.weight.shape) < 0.2] = 0
        self.weight.flat[0] = largest * 2 + 1 if largest < 2**14 else largest  # an odd number: on no coarser grid
        self.exponent, self.shift, self.peak = -5, shift, peak
        self.train = spike_trains(rng, steps, samples, each_in * groups, *(int(each) for each in size), peak=peak)

    def packed(self, blocks):
        weight = torch.tensor(self.weight * 2.0**self.exponent)
        return kernels.pack_convolution(weight, self.geometry, self.exponent, self.peak, blocks)

    def currents(self):
        """`[steps, samples, channels, height, width]` in units of the population's grid."""
        g, (top, bottom, left, right) = self.geometry, self.geometry.padding
        x = F.pad(torch.tensor(self.train).double().flatten(0, 1), (left, right, top, bottom))
        result = F.conv2d(x, torch.tensor(self.weight).double(), None, g.stride, 0, g.dilation, g.groups)
        return result.unflatten(0, self.train.shape[:2]).numpy().round().astype(np.int64) << self.shift


def thresholds_of(rng, channels, largest, shift, alike):
    """One for each channel, in units of the population's grid."""
    each = rng.integers(1, 4 * largest, channels) << shift
    return np.full(channels, each[0]) if alike else each


def drives(rng, kind, shape, reach):
    """Drive of every stride pattern, `[samples, channels, height, width]`."""
    if kind is None:
        return None
    sizes = {"channel": (1, shape[1], 1, 1), "sample": (shape[0], shape[1], 1, 1), "number": (1, 1, 1, 1)}
    drive = torch.tensor(rng.integers(-reach, 2 * reach, sizes.get(kind, shape)), dtype=torch.int32)
    if kind == "channels last":
        drive = drive.contiguous(memory_format=torch.channels_last)
    return drive.expand(shape)


def by_hand(terms, drive, thresholds, neuron, awake, cut):
    """Spikes `[steps, *shape]`, one step after the other, until they end."""
    arriving = max(len(term.train) for term in terms)
    limit = max(arriving, len(awake)) + sum(awake) + 2 if cut is None else cut
    parts = [term.currents() for term in terms]
    received = np.zeros((limit, *parts[0].shape[1:]))
    for part in parts:
        received[: len(part)] += part[:limit]
    for step in range(min(len(awake), limit)):
        if awake[step] and drive is not None:
            received[step] += drive.numpy()
    caps = [sum(awake[: step + 1]) for step in range(limit)]
    spikes = neuron.run(received, caps, np.array(thresholds, float)[:, None, None])[0]
    while len(spikes) and not spikes[-1].any():
        spikes = spikes[:-1]
    return spikes


def population(terms, drive, thresholds, neuron, guess):
    """Its spikes, by lists and, where they can be had, by tables."""
    outputs, groups = len(terms[0].weight), terms[0].geometry.groups
    ways = [Blocks.of(outputs, groups, terms[0].weight[0].size)]
    if all(kernels.can_be_tabled(torch.tensor(term.weight), term.geometry, term.peak) for term in terms):
        ways.append(Blocks.for_tables(outputs))
    found = [population_of(terms, drive, thresholds, neuron, guess, blocks) for blocks in ways]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    return found[0]


def population_of(terms, drive, thresholds, neuron, guess, blocks):
    outputs = len(terms[0].weight)
    packs = [(term.packed(blocks), torch.tensor(term.train)) for term in terms]
    assert all(packed is not None for packed, _ in packs)
    size = terms[0].geometry.output_size(*terms[0].train.shape[3:])
    shape = (terms[0].train.shape[1], outputs, *size)
    exponent = terms[0].exponent - terms[0].shift
    thresholds = torch.tensor(thresholds, dtype=torch.int32)
    return convolution(packs, blocks, shape, drive, exponent, thresholds, neuron, guess).numpy()


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=st.sampled_from(COMPILED_OR_EMULATED),
    neuron=st.sampled_from((IF(), CIF())),
    schedule=st.sampled_from(SCHEDULES),
    channels=st.sampled_from(CHANNELS),
    size=st.sampled_from(((1, 1), (1, 7), (5, 1), (3, 4), (9, 2), (2, 19))),
    samples=st.sampled_from((1, 2)),
    largest=st.sampled_from((1, 20, 2**15 - 1, 2**15, 2**18)),
    shift=st.integers(0, 3),
    steps=st.sampled_from(((1, 1), (4, 2), (0, 5), (3, 0))),
    two=st.booleans(),
    alike=st.booleans(),
    driven=st.sampled_from((None, "channel", "sample", "number", "full", "channels last")),
    cut=st.sampled_from((None, 1, 3, 40)),
    guess=st.integers(0, 9),
)
def test_it_is_the_neurons_own_step(
    seed, instructions, neuron, schedule, channels, size, samples, largest, shift, steps, two, alike, driven, cut, guess
):
    rng = np.random.default_rng(seed)
    terms = [Term(rng, size, samples, channels, steps[0], largest, shift, peak=1)]
    if two:  # the other by single weights, or by groups of its own
        outputs = channels[0] * channels[2]
        other = (1, 1, outputs) if rng.random() < 0.5 else (outputs, 3, 1)
        terms.append(Term(rng, size, samples, other, steps[1], 20, shift, peak=1, point=bool(rng.random() < 0.5)))
    actual = terms[0].geometry.output_size(*terms[0].train.shape[3:])
    assume(all(term.geometry.output_size(*term.train.shape[3:]) == actual for term in terms))
    thresholds = thresholds_of(rng, channels[0] * channels[2], largest, shift, alike)
    drive = drives(rng, driven, (samples, channels[0] * channels[2], *actual), largest << shift)
    awake = schedule.awake(schedule.last_wake or 6)
    with kernels.using(instructions):
        found = population(terms, drive, thresholds, KernelNeuron.spiking(neuron, awake, cut), guess)
    np.testing.assert_array_equal(found, by_hand(terms, drive, thresholds, neuron, awake, cut))


@pytest.mark.parametrize("instructions", COMPILED_OR_EMULATED)
@pytest.mark.parametrize(
    ("channels", "size", "samples"),
    [((70, 5, 1), (13, 6), 3), ((4, 4, 9), (33, 2), 1), ((257, 2, 1), (2, 5), 2), ((2, 3, 1), (40, 3), 1)],
)
def test_bands_blocks_and_threads_change_no_bit(instructions, channels, size, samples, monkeypatch):
    rng = np.random.default_rng(1)
    terms = [Term(rng, size, samples, channels, 5, 20, 0, peak=1), Term(rng, size, samples, channels, 3, 20, 0, peak=1)]
    drive = drives(rng, "full", (samples, channels[0] * channels[2], *size), 20)
    awake = WakeSleep(3, 3).awake(3)
    thresholds = 30 + np.arange(channels[0] * channels[2]) % 9
    expected = by_hand(terms, drive, thresholds, CIF(), awake, None)
    assert (expected > 0).any()
    assert (expected < 0).any()
    neuron = KernelNeuron.spiking(CIF(), awake, None)
    threads = torch.get_num_threads()
    for openmp in (True, False):
        monkeypatch.setattr(loader, "_WORTH_THREADS", 0)
        monkeypatch.setattr(loader._Team, "is_worth_it", lambda self: True)
        if not openmp:
            monkeypatch.setattr(loader, "_openmp", lambda: None)
        try:
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                with kernels.using(instructions):
                    for guess in (0, 20):
                        np.testing.assert_array_equal(population(terms, drive, thresholds, neuron, guess), expected)
        finally:
            torch.set_num_threads(threads)


def test_each_kind_of_weights_is_reached():
    def kind(largest, peak=1):
        weight = torch.full((1, 2, 2, 2), float(largest))
        weight[0, 0, 0, 0] -= 1  # on no coarser grid
        return kernels.pack_convolution(weight, Geometry((2, 2)), 0, peak, Blocks.of(1, 1, 8)).kind

    assert [kind(largest) for largest in (100, 20_001, 70_001)] == [SUMS16, SUMS32, WIDE]
    assert kind(1000, peak=127) == SUMS32


@pytest.mark.parametrize(
    ("largest", "peak", "why"),
    [
        (0.5, 1, "off the grid"),
        (1.0, 128, "counts beyond int8"),
        (2.0**28, 1, "sums beyond int32"),
        (2.0**24, 127, "as well"),
    ],
)
def test_what_does_not_fit_is_not_packed(largest, peak, why):
    weight = torch.full((4, 9, 1, 1), largest, dtype=torch.float64)
    if largest > 0.5:
        weight[1, 2] += 1  # on no coarser grid
    assert kernels.pack_convolution(weight, Geometry((1, 1)), 0, peak, Blocks.of(4, 1, 9)) is None, why


@given(
    channels=st.sampled_from(((3, 5, 1), (16, 16, 1), (40, 8, 1), (33, 3, 1), (1, 1, 40))),
    stride=st.integers(1, 3),
    across=st.sampled_from((1, 5, 16, 17, 40)),
    share=st.sampled_from((0.002, 0.3, 1.0)),
)
@settings(max_examples=30)
def test_tiles_reach_every_position(channels, stride, across, share):
    rng = np.random.default_rng(across)
    term = Term(rng, (2, 3), 2, channels, 6, 20, 0, peak=1)
    term.geometry = Geometry((3, 3), (1, stride), (1, 1, 1, 1), (1, 1), channels[2])
    term.weight = rng.integers(-20, 21, (channels[0] * channels[2], channels[1], 3, 3))
    wide = (across - 1) * stride + 1
    term.train = rng.choice(
        [-1, 0, 1], (6, 2, channels[1] * channels[2], 3, wide), p=[share / 4, 1 - share, share * 3 / 4]
    )
    term.train = term.train.astype(np.int8)
    assert kernels.can_be_tabled(torch.tensor(term.weight), term.geometry, 1)
    awake = WakeSleep(4, 4).awake(4)
    thresholds = rng.integers(1, 60, len(term.weight))
    for instructions in COMPILED_OR_EMULATED:
        with kernels.using(instructions):
            found = population([term], None, thresholds, KernelNeuron.spiking(CIF(), awake, None), 4)
        np.testing.assert_array_equal(found, by_hand([term], None, thresholds, CIF(), awake, None))


def test_what_is_not_tabled():
    weight = torch.ones(16, 16, 3, 3)
    assert kernels.can_be_tabled(weight, Geometry((3, 3)), 1)
    assert not kernels.can_be_tabled(weight, Geometry((3, 3)), 2), "counts have more patterns"
    assert not kernels.can_be_tabled(torch.ones(512, 512, 3, 3), Geometry((3, 3)), 1), (
        "its tables would leave the caches"
    )
    assert kernels.can_be_tabled(torch.ones(512, 1, 3, 3), Geometry((3, 3), groups=512), 100), "each has its own input"


@given(outputs=st.integers(1, 300), groups=st.integers(1, 70), reads=st.sampled_from((1, 9, 1000, 20_000)))
def test_blocks_hold_each_output_once(outputs, groups, reads):
    blocks = Blocks.of(outputs * groups, groups, reads)
    held = [
        low + each
        for low, count in zip(blocks.low.tolist(), blocks.count.tolist(), strict=True)
        for each in range(count)
    ]
    assert held == list(range(outputs * groups))
    assert blocks.width % 32 == 0
    assert int(blocks.count.max()) <= blocks.width <= 128
