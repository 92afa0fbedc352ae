"""The Triton kernel equals the neuron's equations, bit for bit: on a GPU if there is one, and in Triton's interpreter.

Whether the interpreter is used is settled when Triton is imported, so `test_interpreted` runs this file again in a
process of its own.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from casc_core import CIF, IF
from casc_core.engine import kernels
from casc_core.engine.kernels.triton import available, scan_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
GRID = 2.0**-3

needs_triton = pytest.mark.skipif(not available(), reason="needs Triton")
needs_device = pytest.mark.skipif(
    not available() or not (INTERPRETED or torch.cuda.is_available()), reason="needs Triton and a GPU"
)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="is interpreted")
def test_interpreted():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "equals or pause or settles",
        __file__,
    ]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def in_integers(currents, drive, threshold, awake, total, signed):
    """The equations in integers: spikes `[steps, *shape]` until all is silent. `currents` has at least zero steps."""
    v = np.zeros(currents.shape[1:], dtype=np.int64)
    count, trains = np.zeros_like(v), []
    for t in range(max(len(currents), len(awake)) + total):
        if t < len(currents):
            v = v + currents[t]
        if drive is not None and t < len(awake) and awake[t]:
            v = v + drive
        cap = sum(awake[: t + 1]) if t < len(awake) else total
        up = (v >= threshold) & (count < cap)
        down = (v < 0) & (count > 0) & signed
        spikes = np.where(up, 1, np.where(down, -1, 0))
        v, count = v - spikes * threshold, count + spikes
        trains.append(spikes)
    while trains and not trains[-1].any():
        trains.pop()
    return np.stack(trains) if trains else np.zeros((0, *v.shape), dtype=np.int64)


# 1, 7, 300 and 1023 neurons, the last of two programs; one threshold, one for each row, one for each neuron.
@needs_device
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    shape=st.sampled_from(((1,), (7,), (3, 100), (3, 341))),
    thresholds=st.sampled_from(("number", "rows", "neurons")),
    steps=st.none() | st.integers(0, 6),
    driven=st.booleans(),
    awake=st.lists(st.booleans(), max_size=6),
    signed=st.booleans(),
    room=st.integers(-3, 3),
)
@example(0, torch.float64, (3, 341), "rows", 6, True, [True, False, False, True, True], True, 2)
@example(0, torch.float64, (3, 341), "neurons", 2, True, [True, False, True, True], True, -3)
@example(0, torch.float32, (7,), "number", None, True, [True, True, True], False, -1)
def test_equals_integers(seed, dtype, shape, thresholds, steps, driven, awake, signed, room):
    random = np.random.default_rng(seed)
    largest = 2**40 if dtype == torch.float64 else 50
    currents = random.integers(-largest, largest, (steps or 0, *shape))
    drive = random.integers(-largest // 2, largest, shape) if driven or steps is None else None
    sizes = {"number": (), "rows": (*shape[:-1], 1), "neurons": shape}[thresholds]
    threshold = random.integers(1, largest, sizes)
    expected = in_integers(currents, drive, threshold, awake, sum(awake), signed)
    capacity = max(0, len(expected) + room)

    def on_device(array):
        return torch.tensor(array * GRID, dtype=dtype, device=DEVICE)

    spikes, needed = scan_triton(
        None if steps is None else on_device(currents),
        None if drive is None else on_device(drive),
        float(threshold) * GRID if thresholds == "number" else on_device(threshold),
        awake,
        sum(awake),
        signed,
        capacity,
    )
    assert needed == len(expected)
    assert spikes.dtype == torch.int8
    assert spikes.shape == (capacity, *shape)
    np.testing.assert_array_equal(spikes[:needed].cpu(), expected[:capacity])
    assert not spikes[needed:].any()


@needs_device
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    neuron=st.sampled_from((IF(), CIF())),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    wake=st.integers(0, 5),
)
def test_equals_pure_even_where_sums_are_rounded(seed, neuron, dtype, wake):
    generator = torch.Generator().manual_seed(seed)
    currents = torch.randint(-2, 3, (300, 5), generator=generator).to(dtype).mT
    drive = torch.randint(-3, 4, (300,), generator=generator) * (torch.finfo(dtype).eps / 4)
    drive, threshold = drive.to(dtype), torch.randint(1, 3, (300,), generator=generator).to(dtype)
    steps = 5 + wake
    received = torch.cat([currents, torch.zeros(wake, 300, dtype=dtype)])
    received[:wake] += drive
    expected, _ = neuron.run(received, [min(t + 1, wake) for t in range(steps)], threshold)
    arguments = (tensor.to(DEVICE) for tensor in (currents, drive, threshold))
    spikes, needed = scan_triton(*arguments, [True] * wake, wake, isinstance(neuron, CIF), steps)
    assert torch.equal(spikes.cpu().to(dtype), expected)
    assert needed <= steps


@needs_device
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    lowest=st.integers(-5, 0),
    highest=st.integers(1, 7),
    signed=st.booleans(),
    scaled=st.booleans(),
)
def test_settles_at_the_levels_that_are_reached(seed, dtype, lowest, highest, signed, scaled):
    random = np.random.default_rng(seed)
    currents, drive = random.integers(-9, 10, (4, 300)), random.integers(-3, 4, 300)
    thresholds = np.sort(random.integers(-12, 13, highest - lowest))
    scale = random.integers(1, 4, 300) if scaled else np.ones(300, dtype=np.int64)
    awake, room = [True, False, True], 4 + highest - lowest
    received = np.zeros((room, 300), dtype=np.int64)
    received[:4] += currents
    received[:3] += np.outer(awake, drive)
    by_level = torch.tensor([-np.inf, *thresholds, np.inf], dtype=dtype, device=DEVICE)
    each = torch.tensor(scale, dtype=dtype, device=DEVICE) if scaled else 1.0
    numbers = (torch.tensor(array, dtype=dtype, device=DEVICE) for array in (currents, drive))
    spikes, needed = scan_triton(*numbers, each, awake, 2, signed, room, by_level, lowest)
    count, total, expected = np.zeros(300, dtype=np.int64), np.zeros(300, dtype=np.int64), []
    for arriving in received:
        total += arriving
        above = (thresholds[:, None] * scale <= total).sum(0) + lowest
        step = (above > count).astype(np.int64) - ((above < count) & signed)
        count += step
        expected.append(step)
    np.testing.assert_array_equal(spikes.cpu(), expected)
    assert needed == max((t + 1 for t, step in enumerate(expected) if step.any()), default=0)
    if signed:
        np.testing.assert_array_equal(count, (thresholds[:, None] * scale <= total).sum(0) + lowest)


@needs_device
@pytest.mark.parametrize("awake", [[True], [True, False, False, False, False, True]])
def test_a_pause_is_not_the_end(awake):
    currents = torch.tensor([0.0, 0.0, 0.0, 1.0], device=DEVICE)
    spikes, needed = scan_triton(currents, None, 1.0, awake, 1, True, 2)
    assert spikes.tolist() == [0, 0]
    assert needed == 4


def test_a_population_needs_input():
    with pytest.raises(ValueError, match="currents or a drive"):
        scan_triton(None, None, 1.0, [True], 1, True, 2)


def test_triton_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not available()


def test_triton_is_not_imported_unasked(monkeypatch):
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    runpy.run_path(kernels.triton.__file__)["available"]()
    assert "triton" not in sys.modules
