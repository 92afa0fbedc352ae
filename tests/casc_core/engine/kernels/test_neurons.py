"""The compiled neurons against the pure ones, under every set of instructions of this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import COMPILED, COMPILED_OR_EMULATED
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from casc_core import CIF, IF, SNM, SRP, Burst, Continuous, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron, neurons

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
INSTRUCTIONS = st.sampled_from(COMPILED_OR_EMULATED)
NEURONS = st.sampled_from((IF(), CIF(), IF(initial_potential=0.5), CIF(initial_potential=-0.25)))
SCHEDULES = st.sampled_from(
    (WakeSleep(4, 4), WakeSleep(1, 1), WakeSleep(2, 1, 3), WakeSleep(3, 2, 1), WakeSleep(2, 0, 2), Continuous())
)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=INSTRUCTIONS,
    neuron=NEURONS,
    schedule=SCHEDULES,
    dtypes=st.sampled_from(((torch.float32,) * 2, (torch.float64,) * 2, (torch.float32, torch.float64))),
    size=st.sampled_from((1, 5, 513, 1500)),
    arriving=st.integers(0, 7),
    driven=st.booleans(),
    own_thresholds=st.booleans(),
    cut=st.sampled_from((None, 1, 3, 40)),
    guess=st.integers(0, 9),
)
def test_scan_is_the_neurons_own_step(
    seed, instructions, neuron, schedule, dtypes, size, arriving, driven, own_thresholds, cut, guess
):
    assume(driven or arriving)
    rng = np.random.default_rng(seed)
    currents = rng.integers(-40, 41, (arriving, size)) / 16.0
    drive = rng.integers(-20, 30, size) / 16.0 if driven else None
    threshold = rng.integers(1, 30, size) / 16.0 if own_thresholds else 1.0
    awake = schedule.awake(schedule.last_wake or 6)
    limit = max(arriving, len(awake)) + sum(awake) + 2 if cut is None else cut
    received = np.zeros((limit, size))
    received[:arriving] += currents[:limit]
    caps = [sum(awake[: step + 1]) for step in range(limit)]
    for step in range(min(len(awake), limit)):
        if awake[step] and driven:
            received[step] += drive
    expected = neuron.run(received, caps, threshold)[0]
    while len(expected) and not expected[-1].any():
        expected = expected[:-1]
    with kernels.using(instructions):
        found = kernels.scan(
            torch.tensor(currents, dtype=dtypes[0]),
            None if drive is None else torch.tensor(drive, dtype=dtypes[1]),
            torch.tensor(threshold, dtype=dtypes[1]) if own_thresholds else threshold,
            dtypes[1],
            KernelNeuron.spiking(neuron, awake, cut),
            guess,
            torch.as_tensor(neuron.initial_potential * threshold) if neuron.initial_potential else None,
        )
    np.testing.assert_array_equal(found.numpy(), expected)


@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=INSTRUCTIONS,
    total=st.sampled_from((1, 2, 8, 127)),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    parts=st.sampled_from((("current",), ("drive",), ("current", "drive"))),
    own_thresholds=st.booleans(),
)
def test_levels(seed, instructions, total, dtype, parts, own_thresholds):
    rng = np.random.default_rng(seed)
    threshold = rng.integers(1, 30, (3, 50)) if own_thresholds else np.asarray(7)
    given_parts = {name: rng.integers(-300, 900, (3, 50)) for name in parts}
    charge = given_parts.get("current", 0) + total * given_parts.get("drive", 0)
    expected = np.clip(charge // threshold, 0, total)
    tensors = {name: torch.tensor(value, dtype=dtype) for name, value in given_parts.items()}
    with kernels.using(instructions):
        found = kernels.levels(
            tensors.get("current"),
            tensors.get("drive"),
            torch.tensor(threshold, dtype=dtype) if own_thresholds else 7.0,
            total,
        )
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("cut", [None, 2])
def test_what_does_not_fit_on_the_gpu_is_run_again(monkeypatch, cut):
    """The dispatch to the GPU's scan, with that of the CPU in its place."""
    currents = torch.tensor([[3.0, -1.0], [-2.0, 1.0], [0.0, 4.0]])
    neuron = KernelNeuron.spiking(CIF(), [True, True, True], cut)
    expected, asked = (
        kernels.scan(currents, None, 1.0, torch.float32, KernelNeuron.spiking(CIF(), [True] * 3, None), 0),
        [],
    )

    def on_gpu(given, drive, threshold, awake, total, signed, capacity, by_level, lowest):
        assert given is currents
        assert (drive, threshold, awake, total, signed) == (None, 1.0, [True, True, True], 3, True)
        assert (by_level, lowest) == (None, 0)
        asked.append(capacity)
        return torch.cat([expected, expected.new_zeros(9, 2)])[:capacity], len(expected)

    monkeypatch.setattr(neurons, "scan_triton", on_gpu)
    found = neurons._scan_on_gpu(currents, None, 1.0, neuron, 0)
    assert torch.equal(found, expected[:cut])
    assert asked[-1] >= len(found)


@pytest.mark.parametrize("neuron", [SNM(), Burst(1), SRP(2)])
def test_other_neurons_are_left_to_the_generic_loop(neuron):
    assert KernelNeuron.spiking(neuron, [True, True], None) is None
