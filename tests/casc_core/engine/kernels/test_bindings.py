"""The compiled kernels against plain NumPy, under every set of instructions that this machine has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from engines import COMPILED
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from casc_core import CIF, IF, SNM, SRP, Burst, ConfigError, Continuous, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.kernels import KernelNeuron, Sequences, library, population

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
SIZES = st.sampled_from((1, 2, 7, 31, 32, 33, 64, 65, 300, 1023))
INSTRUCTIONS = st.sampled_from(COMPILED)
NEURONS = st.sampled_from(
    (IF(), CIF(), SNM(), Burst(2), Burst(5), Burst(127, clipped=True), SRP(2, initial_potential=0.0))
)
SCHEDULES = st.sampled_from(
    (WakeSleep(4, 4), WakeSleep(1, 1), WakeSleep(2, 1, 3), WakeSleep(3, 2, 1), WakeSleep(2, 0, 2), Continuous())
)


def trains(rng: np.random.Generator, steps: int, samples: int, inputs: int, peak: int) -> np.ndarray:
    """Counts of every kind: sparse, dense, like the step before, silent, all at their peak."""
    train = rng.integers(-peak, peak + 1, (steps, samples, inputs)).astype(np.int8)
    train[rng.random(train.shape) < rng.random()] = 0
    for step in range(steps):
        kind = rng.integers(5)
        if kind == 0:
            train[step] = 0
        elif kind == 1:
            train[step] = peak
        elif kind == 2 and step:
            train[step] = train[step - 1]
            train[step, :, rng.integers(inputs)] = -peak
    return train


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=INSTRUCTIONS,
    inputs=SIZES,
    outputs=SIZES,
    largest=st.sampled_from((1, 20, 127, 2**15 - 1, 2**15, 2**20)),
    peak=st.sampled_from((1, 2, 127)),
    exponent=st.sampled_from((-16, 0, 3)),
    dtype=st.sampled_from((torch.float32, torch.float64)),
)
def test_rows_are_the_integer_product(seed, instructions, inputs, outputs, largest, peak, exponent, dtype):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-largest, largest + 1, (outputs, inputs))
    weight.flat[0], weight.flat[-1] = largest, -largest
    train = trains(rng, steps=3, samples=2, inputs=inputs, peak=peak)
    expected = np.einsum("tbi,oi->tbo", train.astype(np.int64), weight)
    with kernels.using(instructions):
        packed = kernels.pack(torch.tensor(weight * 2.0**exponent), exponent, peak)
        if packed is None:
            assert 2 * np.abs(weight).sum(1).max() * peak > 2**31 - 1
            return
        assume(dtype == torch.float64 or np.abs(weight).sum(1).max() * peak < 2**24)
        found = kernels.rows(packed, torch.tensor(train), dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), expected * 2.0**exponent)


def test_each_kind_of_weights_is_reached():
    kinds = {kernels.pack(torch.full((2, 3), size), 0, 1).kind for size in (100.0, 20_001.0, 70_001.0)}
    assert len(kinds) == 3
    assert kernels.pack(torch.tensor([[0.5]]), 0, 1) is None, "off the grid"
    assert kernels.pack(torch.tensor([[1.0]]), 0, 128) is None, "counts beyond int8"


@given(seed=st.integers(0, 2**32 - 1), instructions=INSTRUCTIONS, inputs=SIZES, by=st.integers(1, 3))
def test_count_of_rows(seed, instructions, inputs, by):
    rng = np.random.default_rng(seed)
    train = trains(rng, steps=4, samples=5, inputs=inputs, peak=1)
    expected = []
    for step, now in enumerate(train):
        looked_at = now[::by]
        ways = [(looked_at != 0).sum(1), (looked_at != 1).sum(1)]
        if step:
            ways.append((looked_at != train[step - 1][::by]).sum(1))
        expected.append(int(np.minimum.reduce(ways).sum()))
    with kernels.using(instructions):
        packed = kernels.pack(torch.ones(2, inputs), 0, 1)
        assert kernels.count_rows(packed, torch.tensor(train), by) == expected


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=INSTRUCTIONS,
    neuron=NEURONS,
    schedule=SCHEDULES,
    dtypes=st.sampled_from(((torch.float32,) * 2, (torch.float64,) * 2, (torch.float32, torch.float64))),
    neurons=st.sampled_from((1, 5, 513, 1500)),
    arriving=st.integers(0, 7),
    driven=st.booleans(),
    own_thresholds=st.booleans(),
    cut=st.sampled_from((None, 1, 3, 40)),
    guess=st.integers(0, 9),
)
def test_scan_is_the_neurons_own_step(
    seed, instructions, neuron, schedule, dtypes, neurons, arriving, driven, own_thresholds, cut, guess
):
    assume(driven or arriving)
    rng = np.random.default_rng(seed)
    currents = rng.integers(-40, 41, (arriving, neurons)) / 16.0
    drive = rng.integers(-20, 30, neurons) / 16.0 if driven else None
    threshold = rng.integers(1, 30, neurons) / 16.0 if own_thresholds else 1.0
    awake = schedule.awake(schedule.last_wake or 6)
    limit = max(arriving, len(awake)) + neuron.share * sum(awake) + 2 if cut is None else cut
    received = np.zeros((limit, neurons))
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


def recurrence_by_hand(weight, drive, train, initial, lengths, reverse, threshold, neuron, awake, cut) -> np.ndarray:
    """Spikes `[steps, batch, length, hidden]`: time outermost, one position at a time."""
    arriving, batch, length, hidden = train.shape
    limit = len(awake) + arriving + (neuron.share * sum(awake) + 1) * (length + 1) if cut is None else cut
    spikes = np.zeros((limit, batch, length, hidden), dtype=np.int64)
    for b in range(batch):
        order = range(lengths[b] - 1, -1, -1) if reverse else range(lengths[b])
        before = np.zeros((limit, hidden))
        for visit, position in enumerate(order):
            received = before @ weight.T
            received[:arriving] += train[:limit, b, position]
            flowing = drive[b, position] + (initial[b] if visit == 0 else 0)
            for step in range(min(len(awake), limit)):
                received[step] += flowing * awake[step]
            caps = [sum(awake[: step + 1]) for step in range(limit)]
            before = neuron.run(received, caps, float(threshold))[0]
            spikes[:, b, position] = before
    while len(spikes) and not spikes[-1].any():
        spikes = spikes[:-1]
    return spikes


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=INSTRUCTIONS,
    neuron=NEURONS,
    schedule=SCHEDULES,
    hidden=st.sampled_from((1, 7, 33, 65)),
    batch=st.sampled_from((1, 3)),
    length=st.sampled_from((1, 2, 5)),
    arriving=st.sampled_from((0, 3)),
    coarse=st.sampled_from((1, 2, 16)),
    looked_up=st.booleans(),
    reverse=st.booleans(),
    ragged=st.booleans(),
    started=st.booleans(),
    positions_first=st.booleans(),
    cut=st.sampled_from((None, 1, 4)),
    guess=st.integers(0, 12),
)
def test_recurrence(
    seed, instructions, neuron, schedule, hidden, batch, length, arriving, coarse, looked_up, reverse, ragged,
    started, positions_first, cut, guess,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    exponent, threshold = -5, 2**5
    weight = rng.integers(-30, 31, (hidden, hidden)) * coarse
    weight.flat[0] = coarse  # so that this is the weights' own grid
    drive = rng.integers(-20, 40, (batch, length, hidden))
    train = rng.integers(-25, 26, (arriving, batch, length, hidden))
    initial = rng.integers(-20, 21, (batch, hidden)) * started
    lengths = rng.integers(1, length + 1, batch) if ragged else np.full(batch, length)
    awake = schedule.awake(schedule.last_wake or 5)
    expected = recurrence_by_hand(weight, drive, train, initial, lengths, reverse, threshold, neuron, awake, cut)
    index, values = None, torch.tensor(drive * 2.0**exponent, dtype=torch.float32)
    if looked_up:
        order = torch.randperm(batch * length, generator=torch.Generator().manual_seed(seed % 1000))
        index = torch.empty(batch * length, dtype=torch.int64)
        index[order] = torch.arange(batch * length)
        index, values = index.reshape(batch, length), values.reshape(-1, hidden)[order].contiguous()
    sequences = Sequences(
        values,
        index,
        torch.tensor(train * 2.0**exponent),
        torch.tensor(initial, dtype=torch.int32) if started else None,
        torch.tensor(lengths) if ragged else None,
        reverse,
    )
    with kernels.using(instructions):
        packed = kernels.pack(torch.tensor(weight * 2.0**exponent), exponent, neuron.peak)
        assert packed.exponent == exponent + int(math.log2(coarse))
        result = kernels.recurrence(
            packed, sequences, exponent, threshold, 1e6, KernelNeuron.spiking(neuron, awake, cut),
            positions_first=positions_first, tally=True, guess=guess,
        )  # fmt: skip
    np.testing.assert_array_equal(result.train.numpy(), expected)
    np.testing.assert_array_equal(result.tallied[0].numpy(), np.maximum(expected, 0).sum(-1))
    np.testing.assert_array_equal(result.tallied[1].numpy(), np.maximum(-expected, 0).sum(-1))
    assert result.train.transpose(1, 2).is_contiguous() == positions_first or 1 in (batch, length) or not len(expected)


@pytest.mark.parametrize("instructions", COMPILED)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9, 1e30])
def test_a_drive_out_of_range_is_noticed(instructions, value):
    drive = torch.zeros(2, 3, 4)
    drive[1, 2, 3] = value
    sequences = Sequences(drive, None, torch.zeros(0, 2, 3, 4), None, None, False)
    neuron = KernelNeuron.spiking(CIF(), [True] * 2, None)
    with kernels.using(instructions):
        packed = kernels.pack(torch.eye(4), 0, 1)
        for dtype in (torch.float32, torch.float64):
            given = Sequences(
                drive.to(dtype), *[getattr(sequences, name) for name in ("index", "train", "initial")], None, False
            )
            found = kernels.recurrence(packed, given, 0, 1, 1e6, neuron, positions_first=False, tally=False, guess=0)
            assert found is None


@pytest.mark.parametrize("instructions", COMPILED)
def test_counting(instructions):
    rng = np.random.default_rng(0)
    with kernels.using(instructions):
        for shape, dim in (((3, 5, 7), 1), ((2, 3, 400, 300), 2), ((4, 1), 0), ((1, 2, 513), 1), ((5, 600), 1)):
            train = rng.integers(-127, 128, shape).astype(np.int8)
            np.testing.assert_array_equal(kernels.sum_middle(torch.tensor(train), dim), train.sum(dim, dtype=np.int64))
            positive, negative = kernels.tally(torch.tensor(train))
            np.testing.assert_array_equal(positive, (train > 0).sum(-1))
            np.testing.assert_array_equal(negative, (train < 0).sum(-1))


def test_instructions_that_the_machine_lacks_are_refused():
    with pytest.raises(ValueError, match="not to be had here"), kernels.using("abacus"):
        pass


def test_a_library_of_another_version_is_left_alone(monkeypatch):
    monkeypatch.setattr(library, "VERSION", -1)
    library._functions.cache_clear()
    try:
        with pytest.warns(UserWarning, match="another version"):
            assert kernels.all_instructions() == [None]
    finally:
        monkeypatch.undo()
        library._functions.cache_clear()


def test_the_environment_can_ask_for_less(monkeypatch):
    try:
        for wanted, expected in (("none", None), ("plain", "plain"), ("", COMPILED[-1])):
            monkeypatch.setenv("CASC_KERNELS", wanted)
            library._usual.cache_clear()
            assert kernels.instructions() == expected
        for wanted in ("AVX2", "nonsense"):
            monkeypatch.setenv("CASC_KERNELS", wanted)
            library._usual.cache_clear()
            with pytest.raises(ConfigError, match=wanted):
                kernels.instructions()
        monkeypatch.setattr(library, "all_instructions", lambda: [None, "plain"])
        monkeypatch.setenv("CASC_KERNELS", "avx2")
        library._usual.cache_clear()
        with pytest.raises(ConfigError, match="kernels here have"):
            kernels.instructions()
    finally:
        library._usual.cache_clear()


@pytest.mark.parametrize("cut", [None, 2])
def test_what_does_not_fit_on_the_gpu_is_run_again(monkeypatch, cut):
    """The dispatch to the GPU's scan, with that of the CPU in its place."""
    currents = torch.tensor([[3.0, -1.0], [-2.0, 1.0], [0.0, 4.0]])
    neuron = KernelNeuron.spiking(CIF(), [True, True, True], cut)
    expected, asked = (
        kernels.scan(currents, None, 1.0, torch.float32, KernelNeuron.spiking(CIF(), [True] * 3, None), 0),
        [],
    )

    def on_gpu(given, drive, threshold, awake, total, signed, capacity):
        assert given is currents
        assert (drive, threshold, awake, total, signed) == (None, 1.0, [True, True, True], 3, True)
        asked.append(capacity)
        return torch.cat([expected, expected.new_zeros(9, 2)])[:capacity], len(expected)

    monkeypatch.setattr(population, "scan_triton", on_gpu)
    found = population._scan_on_gpu(currents, None, 1.0, neuron, 0)
    assert torch.equal(found, expected[:cut])
    assert asked[-1] >= len(found)


@pytest.mark.parametrize("openmp", [True, False])
def test_threads_do_not_change_a_bit(monkeypatch, openmp):
    if not openmp:
        monkeypatch.setattr(library, "_openmp", lambda: None)
    rng = np.random.default_rng(1)
    packed = kernels.pack(torch.tensor(rng.integers(-500, 500, (200, 200)) / 1.0), 0, 1)
    train = torch.tensor(trains(rng, 4, 150, 200, 1))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((kernels.rows(packed, train, torch.float32), kernels.sum_middle(train, 1)))
    finally:
        torch.set_num_threads(before)
    for products, sums in found[1:]:
        assert torch.equal(products, found[0][0])
        assert torch.equal(sums, found[0][1])


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("sample", [0, 250, 499])
def test_one_thread_out_of_range_is_enough(monkeypatch, openmp, sample):
    if not openmp:
        monkeypatch.setattr(library, "_openmp", lambda: None)
    drive = torch.ones(500, 3, 40)
    drive[sample] = 1e9
    packed, neuron = kernels.pack(torch.eye(40), 0, 1), KernelNeuron.spiking(CIF(), [True] * 2, None)
    given = Sequences(drive, None, torch.zeros(0, 500, 3, 40), None, None, False)
    assert kernels.recurrence(packed, given, 0, 1, 1e6, neuron, positions_first=False, tally=False, guess=0) is None
