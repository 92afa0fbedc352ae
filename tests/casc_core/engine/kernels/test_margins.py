"""Weights rounded to int32 with what that leaves out kept beside them: spikes are those of the weights as they are.

All numbers are eighths of the kernels' unit, and thresholds are few units, so that most potentials are within the margin of
a decision, and many errors of rounding are as large as they may be.
"""

from __future__ import annotations

import importlib
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engines import COMPILED, COMPILED_OR_EMULATED, convolution
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrence_by_hand import recurrence_by_hand
from spike_trains import spike_trains

from casc_core import CIF, IF, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.kernels import Blocks, Exact, ExactCurrents, KernelNeuron, Margin, Rounding, Sequences
from casc_core.engine.products.geometry import Geometry

PACKING = importlib.import_module("casc_core.engine.kernels.convolution")
pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
BITS = 3
FINEST = 2**BITS
SEEDS, INSTRUCTIONS = st.integers(0, 2**32 - 1), st.sampled_from(COMPILED_OR_EMULATED)
NEURONS, SCHEDULES = st.sampled_from((IF(), CIF())), st.sampled_from((WakeSleep(4, 4), WakeSleep(2, 1, 2)))


def drawn(rng, least, most, shape):
    """Numbers that are mostly rounded by as much as can be, and often all of them one way."""
    halves = rng.integers(least // FINEST, most // FINEST + 1, shape) * FINEST + FINEST // 2 - rng.integers(0, 2)
    return np.where(rng.random(shape) < 0.7, halves, rng.integers(least, most + 1, shape))


def rounded(x):
    """To units, as the kernels and torch round."""
    return np.rint(x / FINEST)


@settings(max_examples=150)
@given(
    seed=SEEDS, instructions=INSTRUCTIONS, neuron=NEURONS, schedule=SCHEDULES, hidden=st.sampled_from((5, 33)),
    arriving=st.sampled_from((0, 3)), threshold=st.sampled_from((9, 20, 44)), started=st.booleans(), charged=st.booleans(),
    starting=st.sampled_from((0, 5)), reverse=st.booleans(),
)  # fmt: skip
def test_a_recurrence(
    seed, instructions, neuron, schedule, hidden, arriving, threshold, started, charged, starting, reverse
):
    rng = np.random.default_rng(seed)
    batch, length = 2, 3
    weight = drawn(rng, -24, 24, (hidden, hidden)) * (rng.random((hidden, hidden)) < 0.4)
    drive = drawn(rng, -20, 30, (batch, length, hidden))
    train = drawn(rng, -16, 16, (arriving, batch, length, hidden))
    initial = drawn(rng, -16, 16, (batch, hidden)) * started
    potential = drawn(rng, -8, 24, (hidden,)) * charged
    start = drawn(rng, -16, 16, (starting, batch, hidden))
    awake = schedule.awake(schedule.last_wake)
    total = sum(awake)
    expected = recurrence_by_hand(
        weight,
        drive,
        train,
        initial,
        [length] * batch,
        reverse,
        threshold,
        neuron,
        awake,
        None,
        potential,
        start,
    )
    flow = 3
    values = torch.tensor(drive / FINEST)
    with kernels.using(instructions):
        packed = kernels.pack(torch.tensor(weight / FINEST), -BITS, 1, Rounding(0, -BITS, total))
        margin = math.ceil(total * (packed.left_out.largest + 0.5 * flow) + 0.5 * (arriving + starting) + 1)
        given_ints = [torch.tensor(rounded(each)).int() for each in (initial, potential)]
        exact = ExactCurrents(
            -BITS, float(threshold), Margin(margin, flow), torch.tensor(initial).double() if started else None,
            torch.tensor(potential).double() if charged else None, values,
        )  # fmt: skip
        sequences = Sequences(
            values, None, torch.tensor(train / FINEST), given_ints[0] if started else None, None, reverse,
            given_ints[1] if charged else None, torch.tensor(start / FINEST) if starting else None,
        )  # fmt: skip
        found = kernels.recurrence(
            packed, sequences, 0, int(rounded(threshold)), 1e6, KernelNeuron.spiking(neuron, awake, None),
            positions_first=False, tally=False, guess=0, exact=exact,
        )  # fmt: skip
    np.testing.assert_array_equal(found.train.numpy(), expected)


@settings(max_examples=150)
@given(
    seed=SEEDS, instructions=INSTRUCTIONS, neuron=NEURONS, schedule=SCHEDULES, inputs=st.sampled_from((3, 40, 130)),
    outputs=st.sampled_from((5, 70)), threshold=st.sampled_from((9, 20, 44)), alike=st.booleans(), charged=st.booleans(),
    is_rounded=st.booleans(),
)  # fmt: skip
def test_a_fully_connected_population(
    seed, instructions, neuron, schedule, inputs, outputs, threshold, alike, charged, is_rounded
):
    rng = np.random.default_rng(seed)
    batch, awake = 3, schedule.awake(schedule.last_wake)
    total = sum(awake)
    weight = drawn(rng, -24, 24, (outputs, inputs)) * (rng.random((outputs, inputs)) < 4 / inputs)
    thresholds = np.full(outputs, threshold) if alike else rng.integers(9, 45, outputs)
    # Neurons that spike alike at most steps, as those that are driven do, and some otherwise.
    spikes = np.broadcast_to(rng.integers(-1, 2, (total, 1, 1)), (total, batch, inputs))
    spikes = np.where(rng.random(spikes.shape) < 0.7, spikes, rng.integers(-1, 2, spikes.shape))
    drive, potential = drawn(rng, -12, 20, (batch, outputs)), drawn(rng, -8, 24, (outputs,)) * charged
    limit = len(awake) + total + 1
    received = np.zeros((limit, batch, outputs))
    received[:total] += spikes @ weight.T
    received[: len(awake)] += np.array(awake)[:, None, None] * drive
    received[0] += potential
    caps = [sum(awake[: step + 1]) for step in range(limit)]
    expected = neuron.run(received, caps, thresholds.astype(float))[0]
    values, exact, begins = torch.tensor(drive / FINEST).unsqueeze(1), None, torch.tensor(potential)
    with kernels.using(instructions):
        packed = kernels.pack(
            torch.tensor(weight / FINEST), -BITS, 1, Rounding(0, -BITS, total) if is_rounded else None
        )
        unit = 0 if is_rounded else -BITS
        if is_rounded:
            margin = Margin(math.ceil(total * (packed.left_out.largest + 1) + 1), 2)
            wide = begins.double() if charged else None
            exact = ExactCurrents(-BITS, torch.tensor(thresholds).double(), margin, None, wide, values)
            begins, thresholds = torch.tensor(rounded(potential)), rounded(thresholds)
        sequences = Sequences(
            values, None, torch.zeros(0, batch, 1, outputs), None, None, False, begins.int() if charged else None, None,
            torch.tensor(spikes).to(torch.int8),
        )  # fmt: skip
        found = kernels.recurrence(
            packed, sequences, unit, torch.tensor(thresholds).int(), 1e6, KernelNeuron.spiking(neuron, awake, None),
            positions_first=False, tally=False, guess=0, exact=exact,
        ).train[:, :, 0].numpy()  # fmt: skip
    shown = np.zeros((max(len(found), len(expected)), *expected.shape[1:]))
    shown[: len(found)] = found
    np.testing.assert_array_equal(shown[: len(expected)], expected)
    assert not shown[len(expected) :].any()


@settings(max_examples=150)
@given(
    seed=SEEDS, instructions=INSTRUCTIONS, neuron=NEURONS, schedule=SCHEDULES,
    outputs=st.sampled_from((5, 40)), threshold=st.sampled_from((9, 20, 44)), alike=st.booleans(),
    charged=st.booleans(),
)  # fmt: skip
def test_a_convolution(seed, instructions, neuron, schedule, outputs, threshold, alike, charged):
    rng = np.random.default_rng(seed)
    channels, width, batch = 6, 4, 2
    weight = drawn(rng, -24, 24, (outputs, channels, 1, 1)) * (rng.random((outputs, channels, 1, 1)) < 0.6)
    each = np.array([threshold]) if alike else rng.integers(9, 45, outputs)
    thresholds = np.broadcast_to(each, (outputs,))[:, None, None]
    awake = schedule.awake(schedule.last_wake)
    total = sum(awake)
    spikes = rng.integers(0, 2, (len(awake), batch, channels, 1, width))
    drive = drawn(rng, -12, 20, (batch, outputs, 1, width))
    potential = drawn(rng, -8, 24, (batch, outputs, 1, width)) * charged
    limit = len(awake) + total + 1
    received = np.zeros((limit, *drive.shape))
    received[: len(awake)] += np.einsum("tbchw,oc->tbohw", spikes, weight[:, :, 0, 0])
    for step, is_awake in enumerate(awake):
        received[step] += drive * is_awake
    received[0] += potential
    caps = [sum(awake[: step + 1]) for step in range(limit)]
    expected = neuron.run(received, caps, thresholds.astype(float))[0]
    kernel_neuron = KernelNeuron.spiking(neuron, awake, None)
    blocks, geometry = Blocks.of(outputs, 1, channels), Geometry((1, 1), padding=(0, 0, 0, 0))
    with kernels.using(instructions):
        rounding = Rounding(0, -BITS, total)
        packed = kernels.pack_convolution(torch.tensor(weight / FINEST), geometry, -BITS, 1, blocks, rounding)
        left_out = packed.left_out.largest * 2.0**packed.left_out.exponent
        margin = Margin(math.ceil(total * (left_out + 1) + 1), 2)
        ints = [torch.tensor(rounded(each)).int() for each in (drive, potential)]
        wide = [torch.tensor(each).double() for each in (drive, potential)]
        found = convolution(
            [(packed, torch.tensor(spikes).to(torch.int8))], blocks, (batch, outputs, 1, width), ints[0], 0,
            torch.tensor(rounded(thresholds)).flatten().int(), kernel_neuron, 0, ints[1] if charged else None,
            Exact(-BITS, torch.tensor(thresholds).flatten().double(), margin, wide[0], wide[1] if charged else None),
        ).numpy()  # fmt: skip
    shown = np.zeros((max(len(found), len(expected)), *expected.shape[1:]))
    shown[: len(found)] = found
    np.testing.assert_array_equal(shown[: len(expected)], expected)
    assert not shown[len(expected) :].any()


@settings(max_examples=100)
@given(
    seed=SEEDS, instructions=INSTRUCTIONS, neuron=NEURONS, outputs=st.sampled_from((5, 40, 70)), channels=st.integers(1, 9),
    kernel=st.sampled_from(((1, 1), (3, 3), (2, 1), (1, 3))), stride=st.integers(1, 2), dilation=st.integers(1, 2),
    padding=st.integers(0, 1), width=st.sampled_from((6, 11)), own=st.booleans(), chunk_bytes=st.sampled_from((1, 2**16)),
)  # fmt: skip
def test_windows_of_spikes_and_spikes_taken_back(
    seed, instructions, neuron, outputs, channels, kernel, stride, dilation, padding, width, own, chunk_bytes
):
    """By lists, in chunks of several sizes, and by tables; with `own`, a channel of its own for each output besides."""
    rng = np.random.default_rng(seed)
    schedule, size, batch, steps = WakeSleep(4, 4), (5, width), 2, 6
    geometry = Geometry(kernel, (stride, stride), (padding,) * 4, (dilation, dilation))
    found_size = geometry.output_size(*size)
    cases = [(drawn(rng, -24, 24, (outputs, channels, *kernel)), geometry, (channels, *size))]
    if own:
        cases.append(
            (drawn(rng, -24, 24, (outputs, 1, 1, 1)), Geometry((1, 1), groups=outputs), (outputs, *found_size))
        )
    trains = [torch.tensor(spike_trains(rng, steps, batch, *shape, peak=1)) for _, _, shape in cases]
    awake = schedule.awake(schedule.last_wake)
    limit = steps + sum(awake) + 1
    received = np.zeros((limit, batch, outputs, *found_size))
    for (weight, g, _), train in zip(cases, trains, strict=True):
        sent = F.conv2d(
            train.flatten(0, 1).double(),
            torch.tensor(weight).double(),
            None,
            g.stride,
            g.padding[0],
            g.dilation,
            g.groups,
        )
        received[:steps] += sent.unflatten(0, (steps, batch)).numpy().round()
    thresholds = rng.integers(9, 90, outputs)
    caps = [sum(awake[: step + 1]) for step in range(limit)]
    expected = neuron.run(received, caps, thresholds[:, None, None].astype(float))[0]
    for blocks in (Blocks.of(outputs, 1, channels), Blocks.for_tables(outputs)):
        with kernels.using(instructions), patch.object(PACKING, "_CHUNK_BYTES", chunk_bytes):
            packed = [
                kernels.pack_convolution(torch.tensor(weight / FINEST), g, -BITS, 1, blocks, Rounding(0, -BITS, steps))
                for weight, g, _ in cases
            ]
            left_out = sum(each.left_out.largest * 2.0**each.left_out.exponent for each in packed)
            margin = Margin(math.ceil(steps * (left_out + 1) + 1), 2)
            found = convolution(
                list(zip(packed, trains, strict=True)), blocks, (batch, outputs, *found_size), None, 0,
                torch.tensor(rounded(thresholds)).int(), KernelNeuron.spiking(neuron, awake, None), 0, None,
                Exact(-BITS, torch.tensor(thresholds).double(), margin, None, None),
            ).numpy()  # fmt: skip
        np.testing.assert_array_equal(found, expected[: len(found)])
        assert not expected[len(found) :].any()
