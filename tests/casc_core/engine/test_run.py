"""Populations of every neuron under every schedule by every engine, against the neuron's own pure step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from engines import COMPILED
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF, IF, ConfigError, Continuous, Exact, Neuron, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.level_run import LevelRun
from casc_core.engine.run import LARGEST_TOTAL
from casc_core.engine.spiking_run import SpikingRun
from casc_core.rivals.neurons import SNM, SRP, Burst
from casc_core.schedule import LARGEST_STEPS

NEURONS = st.one_of(
    st.sampled_from((IF, CIF, SNM)).flatmap(lambda kind: st.builds(kind, initial_potential=st.sampled_from(
        (0.0, 0.5, -0.5, 2.25)
    ))),
    st.builds(
        Burst, gamma=st.sampled_from((1, 2, 5, 7, 127)), clipped=st.booleans(),
        initial_potential=st.sampled_from((0.0, 0.5, 3.0)),
    ),
    st.builds(SRP, tau=st.integers(1, 6), initial_potential=st.sampled_from((0.5, 0.0))),
)  # fmt: skip
SCHEDULES = st.one_of(
    st.builds(Continuous), st.builds(WakeSleep, st.integers(1, 5), st.integers(0, 4), st.integers(1, 3))
)


@pytest.mark.parametrize("engine", [*COMPILED, None])
@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    neuron=NEURONS,
    schedule=SCHEDULES,
    steps=st.sampled_from((None, 1, 4, 30)),
    arriving=st.integers(0, 7),
    driven=st.booleans(),
    own_thresholds=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
def test_a_population_is_the_neurons_own_step(
    engine, seed, neuron, schedule, steps, arriving, driven, own_thresholds, dtype
):
    if neuron.warm_up:
        schedule = Continuous()
    if isinstance(schedule, Continuous):
        steps = steps or 9
    rng = np.random.default_rng(seed)
    shape, large = (3, 5), neuron.peak
    train = torch.tensor(rng.integers(-40 * large, 40 * large + 1, (arriving, *shape)) / 16.0)
    drive = torch.tensor(rng.integers(-20 * large, 30 * large, shape) / 16.0) if driven else None
    threshold = torch.tensor(rng.integers(1, 30, shape) / 16.0) if own_thresholds else 0.75
    with kernels.using(engine):
        run = SpikingRun(Exact(), neuron, schedule, steps)
        potential = run.initial_potential(None, threshold, -20, train.device)
        given_threshold = threshold.to(dtype) if own_thresholds else threshold
        found = run.fire(train, drive, given_threshold, dtype, potential)
    awake = [int(step) for step in run.awake]
    limit = steps or max(arriving, len(awake)) + run.total + 1
    received = torch.zeros((max(limit, arriving), *shape), dtype=torch.float64)
    received[:arriving] += train
    for step, wake in enumerate(awake):
        if wake and drive is not None:
            received[step] += drive
    caps = np.cumsum((awake + [0] * limit)[:limit]).tolist()
    expected, _ = neuron.run(received[:limit].numpy(), caps, threshold.numpy() if own_thresholds else threshold)
    while len(expected) and not expected[-1].any():
        expected = expected[:-1]
    assert found.dtype == torch.int8
    np.testing.assert_array_equal(found.numpy(), expected)


@dataclass(frozen=True)
class Torrent(Neuron):
    """More spikes in a step than a byte holds."""

    @property
    def peak(self):
        return 128

    def fire(self, state, cap, threshold):
        return (state.v >= threshold) * 128, None


def test_what_a_run_cannot_count_is_refused():
    assert SpikingRun(Exact(), CIF(), Continuous(), LARGEST_TOTAL).total == LevelRun(Exact(), LARGEST_TOTAL).total
    with pytest.raises(ConfigError, match="a neuron may spike 32,768 times; more than 32,767"):
        SpikingRun(Exact(), CIF(), Continuous(), LARGEST_TOTAL + 1)
    with pytest.raises(ConfigError, match="a neuron may spike 32,768 times"):
        LevelRun(Exact(), LARGEST_TOTAL + 1)
    with pytest.raises(ConfigError, match="may spike 35,000 times"):
        SpikingRun(Exact(), Burst(gamma=5), Continuous(), 7000)
    with pytest.raises(ConfigError, match="may spike 128 times in one step; a train, in bytes, holds 127"):
        SpikingRun(Exact(), Torrent(), Continuous(), 1)


@pytest.mark.parametrize("steps", [LARGEST_STEPS + 1, 10**9, 10**30])
@pytest.mark.parametrize("schedule", [WakeSleep(2, 2), Continuous()], ids=str)
def test_more_steps_than_there_is_room_for_are_refused_at_once(schedule, steps):
    with pytest.raises(ConfigError, match=f"{steps:,} time steps cannot be run; at most 131,072"):
        SpikingRun(Exact(), CIF(), schedule, steps)
    with pytest.raises(ConfigError, match="steps cannot be run"):
        SpikingRun(Exact(), CIF(), WakeSleep(1, steps, 2), None)
