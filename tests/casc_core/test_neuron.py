"""The neurons against tables worked by hand, on every array library; and the theorem the method rests on."""

from __future__ import annotations

import math

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casc_core import CIF, IF, ConfigError, LevelThresholds, NeuronState

LIBRARIES = {
    "numpy": lambda x: np.asarray(x, dtype=np.float64),
    "torch float32": lambda x: torch.tensor(x, dtype=torch.float32),
    "torch float64": lambda x: torch.tensor(x, dtype=torch.float64),
    "strict": lambda x: array_api_strict.asarray(x, dtype=array_api_strict.float64),
}
# currents, caps, threshold, spikes, potential after each step
TABLES = {
    "IF integrates and resets softly": (
        IF(), [0.5, 0.75, 0.0, 1.0], [1, 2, 3, 4], 1.0, [0, 1, 0, 1], [0.5, 0.25, 0.25, 0.25]
    ),
    "IF fires at the threshold": (IF(), [1.0, 0.5, 0.5], [1, 2, 3], 1.0, [1, 0, 1], [0, 0.5, 0]),
    "IF never takes back": (IF(), [1.5, -2.0, -1.0], [1, 2, 3], 1.0, [1, 0, 0], [0.5, -1.5, -2.5]),
    "IF stops at its cap": (IF(), [3.0, 0.0, 0.0, 0.0], [1, 2, 2, 2], 1.0, [1, 1, 0, 0], [2, 1, 1, 1]),
    "CIF takes back": (CIF(), [1.5, -2.0, 0.75], [1, 2, 3], 1.0, [1, -1, 0], [0.5, -0.5, 0.25]),
    "CIF has nothing to take back": (CIF(), [-1.5, 0.5, 3.0], [1, 2, 3], 1.0, [0, 0, 1], [-1.5, -1.0, 1.0]),
    "CIF at zero potential keeps its spike": (CIF(), [1.0, 0.0, -0.25], [1, 2, 3], 1.0, [1, 0, -1], [0, 0, 0.75]),
    "CIF takes back one spike a step": (
        CIF(), [1.0, 1.0, -2.5, 0.0, 0.0], [1, 2, 2, 2, 2], 1.0, [1, 1, -1, -1, 0], [0, 0, -1.5, -0.5, -0.5]
    ),
    "CIF stops at its cap": (CIF(), [5.0, 0.0, 0.0], [1, 2, 2], 1.0, [1, 1, 0], [4, 3, 3]),
    "CIF with a threshold of two": (CIF(), [3.0, 0.5, 1.0, -4.0], [1, 2, 3, 4], 2.0, [1, 0, 1, -1], [1, 1.5, 0.5, -1.5]),
}  # fmt: skip


def listed(array):
    return [float(array[i]) for i in range(array.shape[0])]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", TABLES)
def test_step_and_run_follow_the_table(name, library):
    neuron, currents, caps, threshold, spikes, potentials = TABLES[name]
    make = LIBRARIES[library]
    state = neuron.initial(make([0.0]))
    for t, current in enumerate(currents):
        fired, state = neuron.step(state, make([current]), caps[t], threshold)
        assert isinstance(state, NeuronState)
        assert (float(fired[0]), float(state.v[0])) == (spikes[t], potentials[t])
        assert float(state.count[0]) == sum(spikes[: t + 1])
    train, final = neuron.run(make([[current] for current in currents]), caps, threshold)
    assert type(train) is type(make([0.0]))
    assert train.dtype == make([0.0]).dtype
    assert listed(train[:, 0]) == spikes
    assert float(final.v[0]) == potentials[-1]


def test_step_leaves_its_arguments_alone():
    state, current = NeuronState(np.zeros(2), np.zeros(2)), np.asarray([1.5, -1.0])
    CIF().step(state, current, 1)
    assert state.v.tolist() == [0, 0]
    assert state.count.tolist() == [0, 0]
    assert current.tolist() == [1.5, -1.0]


def test_threshold_may_differ_by_neuron():
    train, state = CIF().run(np.asarray([[2.0, 2.0], [0.0, 0.0]]), [1, 2], np.asarray([1.0, 2.0]))
    assert train.tolist() == [[1, 1], [1, 0]]
    assert state.v.tolist() == [0, 0]


def test_no_steps_give_no_spikes():
    train, state = CIF().run(np.zeros((0, 3)), [])
    assert train.shape == (0, 3)
    assert state.v.tolist() == [0, 0, 0]


def test_one_cap_for_each_step():
    with pytest.raises(ValueError, match="one cap for each of 2 steps; got 1"):
        CIF().run(np.zeros((2, 3)), [1])


CURRENTS = st.lists(st.lists(st.integers(-96, 96), min_size=3, max_size=3), min_size=1, max_size=10)


@given(CURRENTS, st.integers(1, 8), st.sampled_from((0.25, 1.0, 2.0)), st.sampled_from(list(LIBRARIES)))
def test_cif_settles_at_the_levels_of_cqrelu_and_is_then_silent(currents, wake, threshold, library):
    values = [[c / 32 for c in row] for row in currents]
    steps, rest = len(values), wake + 4
    caps = [min(t + 1, wake) for t in range(steps + rest)]
    wake = caps[steps - 1] if steps < wake else wake
    caps = [min(cap, wake) for cap in caps]
    train, state = CIF().run(LIBRARIES[library](values + [[0.0] * 3] * rest), caps, threshold)
    for neuron in range(3):
        expected = min(max(math.floor(sum(row[neuron] for row in values) / threshold), 0), wake)
        emitted = listed(train[:, neuron])
        assert sum(emitted) == float(state.count[neuron]) == expected
        assert sum(emitted[: steps + wake]) == expected
        assert not any(emitted[steps + wake :])


@given(CURRENTS, st.sampled_from((IF(), CIF())), st.integers(1, 5), st.sampled_from((0.25, 1.0, 2.0)))
def test_spikes_counts_and_charge_at_every_step(currents, neuron, wake, threshold):
    values = np.asarray(currents) / 32
    state = neuron.initial(values[0])
    received = np.zeros(3)
    for t, current in enumerate(values):
        cap = min(t + 1, wake)
        spikes, state = neuron.step(state, current, cap, threshold)
        received += current
        assert set(spikes.tolist()) <= ({-1.0, 0.0, 1.0} if isinstance(neuron, CIF) else {0.0, 1.0})
        assert ((state.count >= 0) & (state.count <= cap)).all()
        np.testing.assert_array_equal(received, state.v + threshold * state.count)


@given(CURRENTS, st.sampled_from((IF(), CIF())), st.sampled_from((0.5, 1.0)))
def test_every_library_gives_the_same_spikes(currents, neuron, threshold):
    values, caps = [[c / 32 for c in row] for row in currents], list(range(1, len(currents) + 1))
    trains = []
    for make in LIBRARIES.values():
        train, _ = neuron.run(make(values), caps, threshold)
        trains.append([listed(train[t, ...]) for t in range(len(values))])
    for train in trains[1:]:
        assert train == trains[0]


RANGES = st.tuples(st.integers(-5, 0), st.integers(0, 6)).filter(lambda ends: ends[0] < ends[1])


@given(
    data=st.data(),
    ends=RANGES,
    steps=st.integers(1, 8),
    late=st.integers(0, 5),
    scale=st.sampled_from((1.0, 0.5, 3.0)),
    library=st.sampled_from(list(LIBRARIES)),
)
def test_it_settles_at_the_levels_whose_thresholds_are_reached(data, ends, steps, late, scale, library):
    """Uneven and equal thresholds, signed ranges, graded and late events, caps: by integers, at most b - a steps on."""
    lowest, highest = ends
    levels = highest - lowest
    thresholds = sorted(data.draw(st.lists(st.integers(-40, 40), min_size=levels, max_size=levels)))
    events = data.draw(st.lists(st.integers(-60, 60), min_size=steps, max_size=steps)) + [0] * late
    events += data.draw(st.lists(st.integers(-9, 9), min_size=1, max_size=1))
    caps = data.draw(st.lists(st.integers(0, highest), min_size=len(events), max_size=len(events)))
    caps = sorted(caps) + [highest] * (levels + 3)
    make = LIBRARIES[library]
    by_level = LevelThresholds(make([threshold / 8 for threshold in thresholds]), lowest, scale)
    currents = make([[event / 8] for event in events] + [[0.0]] * (levels + 3))
    spikes = listed(CIF().run(currents, caps, by_level)[0][:, 0])
    total, count = 0, 0
    for t, event in enumerate(events):
        total += event
        count += spikes[t]
        assert lowest <= count <= max(caps[t], 0)
    settled = lowest + sum(threshold * scale <= total for threshold in thresholds)
    assert sum(spikes) == settled
    assert not any(spikes[len(events) + levels :])


@given(CURRENTS, st.integers(1, 6), st.sampled_from((0.25, 1.0, 2.0)), st.sampled_from(list(LIBRARIES)))
def test_cif_is_the_plain_case(currents, wake, threshold, library):
    make, values = LIBRARIES[library], [[c / 32 for c in row] for row in currents] + [[0.0] * 3] * 9
    caps = [min(t + 1, wake) for t in range(len(values))]
    by_level = LevelThresholds(make([threshold * level for level in range(1, wake + 1)]))
    for neuron in (CIF(), IF(), CIF(initial_potential=0.5)):
        plain, general = (neuron.run(make(values), caps, each) for each in (threshold, by_level))
        for step in range(len(values)):
            assert listed(plain[0][step, ...]) == listed(general[0][step, ...])
        assert listed(plain[1].v) == listed(general[1].v)


def test_a_range_without_the_first_count_is_refused():
    for values, lowest in (([1.0], 1), ([1.0, 2.0], -3), ([], 0)):
        with pytest.raises(ConfigError, match="counts begin with 0"):
            LevelThresholds(np.asarray(values), lowest)
