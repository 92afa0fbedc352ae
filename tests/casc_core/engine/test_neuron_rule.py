"""Every place where the rule of IF and CIF stands, against the one in `casc_core.neuron`.

Another place would be another entry of `STEPS` or of `LEVELS`. The kernels' own tests go through what else they do.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import COMPILED, convolution
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF, IF, Continuous, Exact, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.kernels import Blocks, KernelNeuron, Sequences
from casc_core.engine.kernels.triton import available, scan_triton
from casc_core.engine.level_run import LevelRun
from casc_core.engine.neuron_loop import scan
from casc_core.engine.products.geometry import Geometry


def by_definition(neuron, train, drive, awake, threshold):
    """Spikes `[steps, neurons]` by `Neuron.run`, until they end."""
    received = np.zeros((max(len(train), len(awake)) + sum(awake), train.shape[1]))
    received[: len(train)] += train
    received[: len(awake)] += np.outer(awake, drive)
    caps = [sum(awake[: step + 1]) for step in range(len(received))]
    return ended(neuron.run(received, caps, float(threshold))[0])


def ended(spikes):
    while len(spikes) and not spikes[-1].any():
        spikes = spikes[:-1]
    return spikes


def by_loop(neuron, train, drive, awake, threshold):
    """The engine's plain loop, in torch."""
    like, found = torch.zeros(train.shape[1]), []
    population = scan(neuron, like, float(threshold))
    for step in range(max(len(train), len(awake)) + sum(awake)):
        current = torch.tensor(train[step]).float() if step < len(train) else like
        current = current + torch.tensor(drive) if step < len(awake) and awake[step] else current
        found.append(population.step(current, sum(awake[: step + 1])).numpy())
    return ended(np.stack(found))


def by_scan(neuron, train, drive, awake, threshold):
    """The compiled loop over time."""
    spiking = KernelNeuron.spiking(neuron, awake, None)
    currents = torch.tensor(train).float()
    return kernels.scan(currents, torch.tensor(drive), float(threshold), torch.float32, spiking, 0).numpy()


def by_convolution(neuron, train, drive, awake, threshold):
    """The compiled population behind a convolution, here each channel on its own."""
    channels = train.shape[1]
    geometry, blocks = Geometry((1, 1), groups=channels), Blocks.of(channels, channels, 1)
    packed = kernels.pack_convolution(torch.ones(channels, 1, 1, 1), geometry, 0, 127, blocks)
    terms = [(packed, torch.tensor(train, dtype=torch.int8).reshape(-1, 1, channels, 1, 1))]
    shape, spiking = (1, channels, 1, 1), KernelNeuron.spiking(neuron, awake, None)
    units = torch.tensor(drive, dtype=torch.int32).reshape(shape)
    each = torch.full((channels,), int(threshold), dtype=torch.int32)
    return convolution(terms, blocks, shape, units, 0, each, spiking, 0).numpy()[:, 0, :, 0, 0]


def by_recurrence(neuron, train, drive, awake, threshold):
    """The compiled recurrence, here of a single position."""
    hidden, spiking = train.shape[1], KernelNeuron.spiking(neuron, awake, None)
    arriving = torch.tensor(train).double().reshape(-1, 1, 1, hidden)
    sequences = Sequences(torch.tensor(drive).reshape(1, 1, hidden), None, arriving, None, None, False)
    packed = kernels.pack(torch.eye(hidden), 0, 1)
    found = kernels.recurrence(
        packed, sequences, 0, int(threshold), 1e6, spiking, positions_first=False, tally=False, guess=0
    )
    return found.train.numpy()[:, 0, 0]


def by_triton(neuron, train, drive, awake, threshold):
    """The GPU's loop over time."""
    currents, flowing = torch.tensor(train).float().cuda(), torch.tensor(drive).cuda()
    room = max(len(train), len(awake)) + sum(awake)
    spikes, needed = scan_triton(currents, flowing, float(threshold), awake, sum(awake), isinstance(neuron, CIF), room)
    return spikes[:needed].cpu().numpy()


compiled = [pytest.param(step, choice) for step in (by_scan, by_convolution, by_recurrence) for choice in COMPILED]
on_gpu = pytest.mark.skipif(not (available() and torch.cuda.is_available()), reason="needs Triton and a GPU")
STEPS = [(by_loop, None), *compiled, pytest.param(by_triton, None, marks=on_gpu)]
SCHEDULES = (WakeSleep(4, 4), WakeSleep(1, 1), WakeSleep(2, 1, 3), WakeSleep(3, 0, 2), Continuous())


@pytest.mark.parametrize(("steps", "instructions"), STEPS)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    neuron=st.sampled_from((IF(), CIF())),
    schedule=st.sampled_from(SCHEDULES),
    arriving=st.integers(0, 6),
    neurons=st.sampled_from((1, 5, 40)),
    threshold=st.integers(1, 60),
)
def test_step_by_step(steps, instructions, seed, neuron, schedule, arriving, neurons, threshold):
    rng = np.random.default_rng(seed)
    train = rng.integers(-60, 61, (arriving, neurons))
    drive = rng.integers(-40, 60, neurons).astype(np.float32)
    awake = [bool(step) for step in schedule.awake(schedule.last_wake or 5)]
    with kernels.using(instructions):
        found = steps(neuron, train, drive, awake, threshold)
    np.testing.assert_array_equal(found, by_definition(neuron, train, drive, awake, threshold))


def by_quotient(train, drive, total, threshold):
    """Levels in torch, and compiled, by what is at hand."""
    run = LevelRun(Exact(), total)
    return run.fire(torch.tensor(train), torch.tensor(drive), float(threshold), torch.float64)[0].numpy()


LEVELS = [(by_quotient, choice) for choice in (None, *COMPILED)]


@pytest.mark.parametrize(("levels", "instructions"), LEVELS)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), wake=st.integers(1, 9), threshold=st.integers(1, 200))
def test_levels_are_where_it_settles(levels, instructions, seed, wake, threshold):
    rng = np.random.default_rng(seed)
    train = rng.integers(-300, 600, (1, 40)).astype(np.float64)
    drive = rng.integers(-100, 200, 40).astype(np.float64)
    with kernels.using(instructions):
        found = levels(train, drive, wake, threshold)
    settled = by_definition(CIF(), train, drive, [True] * wake, threshold).sum(0)
    np.testing.assert_array_equal(found, settled)
