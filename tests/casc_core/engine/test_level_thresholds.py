"""Populations with a threshold for each level, in every engine, against sums and comparisons in whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import COMPILED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF, IF, SNM, AsTrained, ConfigError, Continuous, LevelThresholds, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.level_run import LevelRun
from casc_core.engine.spiking_run import SpikingRun

SCHEDULES = (WakeSleep(4, 4), WakeSleep(1, 1), WakeSleep(2, 1, 3))


@st.composite
def populations(draw):
    """Whole numbers: currents `[arriving, neurons]`, a drive, a potential, thresholds, the lowest level, a scale."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    neurons, arriving = draw(st.sampled_from((1, 5, 600))), draw(st.integers(0, 6))
    lowest, levels = draw(st.integers(-6, 0)), draw(st.integers(6, 9))
    even = draw(st.booleans())
    thresholds = np.arange(lowest + 1, lowest + levels + 1) * 6 - 3 if even else random.integers(-40, 60, levels)
    return (
        random.integers(-30, 31, (arriving, neurons)),
        random.integers(-20, 30, neurons) if draw(st.booleans()) else None,
        random.integers(-9, 9, neurons) if draw(st.booleans()) else None,
        np.sort(thresholds),
        lowest,
        random.integers(1, 4, neurons) if draw(st.booleans()) else None,
    )


def by_definition(neuron, schedule, train, drive, potential, thresholds, lowest, scale):
    """Spikes `[steps, neurons]` until they end, and the counts at which the neurons should settle."""
    size, awake = train.shape[1], schedule.awake(schedule.last_wake)
    total = np.zeros(size, dtype=np.int64) if potential is None else potential.copy()
    levels = thresholds[:, None] * (1 if scale is None else scale)
    count, spikes = np.zeros(size, dtype=np.int64), []
    for step in range(max(len(train), len(awake)) + len(thresholds)):
        if step < len(train):
            total = total + train[step]
        if drive is not None and step < len(awake) and awake[step]:
            total = total + drive
        wanted = lowest + (levels <= total).sum(0)
        spike = (wanted > count).astype(np.int64) - ((wanted < count) & isinstance(neuron, CIF))
        count += spike
        spikes.append(spike)
    while spikes and not spikes[-1].any():
        spikes.pop()
    return np.array(spikes).reshape(-1, size), lowest + (levels <= total).sum(0)


def tensors(dtype, train, drive, potential, thresholds, lowest, scale):
    def tensor(array):
        return None if array is None else torch.tensor(array, dtype=dtype)

    by_level = LevelThresholds(tensor(thresholds), lowest, 1.0 if scale is None else tensor(scale))
    return tensor(train), tensor(drive), by_level, dtype, tensor(potential)


@pytest.mark.parametrize("instructions", [None, *COMPILED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=60)
@given(
    population=populations(),
    neuron=st.sampled_from((CIF(), CIF(), IF())),
    schedule=st.sampled_from(SCHEDULES),
    narrow=st.booleans(),
)
def test_spikes_and_where_they_settle(instructions, dtype, population, neuron, schedule, narrow):
    expected, settled = by_definition(neuron, schedule, *population)
    run = SpikingRun(AsTrained(), neuron, schedule, None)
    train, *others = tensors(dtype, *population)
    with kernels.using(instructions):
        # Currents in float32, potentials in float64.
        spikes = run.fire(train.float() if narrow else train, *others).numpy()
    np.testing.assert_array_equal(spikes, expected)
    currents, *_, thresholds, _, _ = population
    ended = max(len(currents), len(schedule.awake(schedule.last_wake)))
    assert len(spikes) <= ended + len(thresholds)  # at most as many steps as there are levels, once all has arrived
    if isinstance(neuron, CIF):
        np.testing.assert_array_equal(spikes.sum(0) if len(spikes) else 0 * settled, settled)


@pytest.mark.parametrize("instructions", [None, *COMPILED])
@settings(max_examples=60)
@given(population=populations(), wake=st.integers(1, 5))
def test_the_reference_counts_the_thresholds_that_are_reached(instructions, population, wake):
    train, *others = population
    _, settled = by_definition(CIF(), WakeSleep(wake, 1), train, *others)
    with kernels.using(instructions):
        found = LevelRun(AsTrained(), wake).fire(*tensors(torch.float64, train.sum(0, keepdims=True), *others))
    np.testing.assert_array_equal(found[0], settled)


def test_a_neuron_of_one_threshold_is_refused():
    run = SpikingRun(AsTrained(), SNM(), Continuous(), 4)
    with pytest.raises(ConfigError, match=r"SNM\(\) takes one threshold.*use CIF\(\) or IF\(\)"):
        run.fire(torch.zeros(1, 2), None, LevelThresholds(torch.ones(2)), torch.float32)
