"""Populations that real-valued input alone drives: products in float32 with a margin give the spikes of exact sums."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

import numpy as np
import pytest
import torch
from engines import COMPILED, driven_spikes
from hypothesis import given, settings
from hypothesis import strategies as st

from casc_core import CIF, IF, AsTrained, WakeSleep
from casc_core.engine import kernels
from casc_core.engine.kernels import Driven, KernelNeuron, Reads, SplitWeights
from casc_core.engine.products.geometry import Geometry
from casc_core.engine.products.input_product import ConvolutionSums, InputProduct, InputWeights, LinearSums
from casc_core.numerics import on_grid

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
EXPONENT = -30
MOST = 2.0**6


def numbers(rng, coarse, *shape):
    """Of a normal distribution; coarse ones, so that many sums meet a threshold, or the middle between two multiples."""
    drawn = torch.tensor(rng.normal(size=shape), dtype=torch.float32).double()
    return on_grid(drawn, -2) if coarse else drawn


def fired(neuron, awake):
    """The engine's plain loop, for some neurons by drive, threshold and potential."""

    def fire(drive, threshold, potential):
        drive, threshold, potential = (each.numpy() for each in (drive, threshold, potential))
        if neuron is None:
            return torch.tensor(np.clip(np.floor((drive * awake + potential) / threshold), 0, awake))[None]
        limit = len(awake) + sum(awake) + 1
        received = np.array([drive * (step < len(awake) and awake[step]) for step in range(limit)])
        received[0] += potential
        caps = [sum(awake[: step + 1]) for step in range(limit)]
        return torch.tensor(neuron.run(received, caps, threshold)[0])

    return fire


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    instructions=st.sampled_from(COMPILED),
    neuron=st.sampled_from((IF(), CIF(), None)),
    schedule=st.sampled_from((WakeSleep(4, 4), WakeSleep(2, 1, 2))),
    channels=st.sampled_from(((1, 1, 1), (5, 3, 1), (33, 2, 1), (2, 2, 3), (70, 1, 1))),
    size=st.sampled_from((None, (1, 1), (3, 5), (7, 2))),
    coarse=st.booleans(),
    alike=st.booleans(),
    biased=st.booleans(),
    spoilt=st.booleans(),
    guess=st.integers(0, 9),
)
def test_spikes_are_those_of_exact_sums(
    seed, instructions, neuron, schedule, channels, size, coarse, alike, biased, spoilt, guess
):
    """Without a size: a linear map. Without a neuron: in levels. Spoilt: looking again decides nothing."""
    rng = np.random.default_rng(seed)
    outputs, inputs, groups = channels if size is not None else (channels[0], 70, 1)
    taps = (1, 1) if size is None else (3, 2)
    weight = numbers(rng, coarse, outputs * groups, inputs, *taps) * 2.0**-1
    if size is None:
        x, sums, weight = numbers(rng, coarse, 5, inputs), LinearSums(), weight.flatten(1)
        shape = torch.Size([5, outputs])
    else:
        geometry = Geometry(taps, (1, 2), (1, 1, 0, 1), groups=groups)
        x, sums = numbers(rng, coarse, 2, inputs * groups, *size), ConvolutionSums(geometry, 2)
        shape = torch.Size([2, outputs * groups, *geometry.output_size(*size)])
    along = (-1, *[1] * (-1 - sums.output_dim))
    bias = numbers(rng, coarse, len(weight)) if biased else None
    if bias is not None:
        bias[0] += 2.0 ** (EXPONENT - 1)  # where all is coarse, sums lie in the middle between two multiples
    thresholds = on_grid(0.5 + numbers(rng, coarse, 1 if alike else len(weight)).abs(), EXPONENT).reshape(along)
    potential = thresholds / 2 if coarse else 0.25
    product = InputProduct(x, InputWeights.of(weight), sums, bias, shape)
    awake = schedule.awake(schedule.last_wake)
    kernel_neuron = KernelNeuron.levels(sum(awake)) if neuron is None else KernelNeuron.spiking(neuron, awake, None)
    rest = product._rest()[0], 2.0**EXPONENT if spoilt and shape.numel() <= 64 else product._rest()[1]
    with kernels.using(instructions), patch.object(InputProduct, "_rest", lambda self: rest):
        spikes = driven_spikes(
            product,
            shape,
            EXPONENT,
            thresholds,
            potential,
            MOST,
            kernel_neuron,
            guess,
            fired(neuron, awake if neuron else 4),
        )
    assert spikes is not None
    assert spikes.shape[1:] == shape
    drive = dataclasses.replace(product).on_grid(AsTrained(), EXPONENT).clamp(-MOST, MOST)
    each = (each.expand(shape).contiguous() for each in (thresholds, torch.as_tensor(potential).double()))
    expected = fired(neuron, awake if neuron else 4)(drive, *each)
    shown = torch.zeros((max(len(spikes), len(expected)), *shape))
    shown[: len(spikes)] = spikes
    assert torch.equal(shown[: len(expected)], expected.float())
    assert not shown[len(expected) :].any()


def test_what_is_left_to_others():
    weight = torch.ones(3, 4, dtype=torch.float64)
    neuron = KernelNeuron.spiking(CIF(), [True] * 4, None)

    def taken(x=None, exponent=EXPONENT, threshold=1.0, most=MOST, shape=(2, 3)):
        x = torch.ones(2, 4, dtype=torch.float64) if x is None else x
        product = InputProduct(x, InputWeights.of(weight), LinearSums(), None, torch.Size(shape))
        return driven_spikes(
            product, torch.Size(shape), exponent, threshold, 0.0, most, neuron, 0, fired(CIF(), [True] * 4)
        )

    assert taken() is not None
    assert taken(exponent=-60) is None, "a grid finer than sums in float64 are"
    assert taken(threshold=torch.ones(2, 1)) is None, "a threshold for each sample"
    assert taken(x=torch.ones(2, 4).double() * 2.0**99) is None, "beyond float32"
    assert taken(x=torch.ones(1, 4).double().expand(2, 4)) is None, "one input for all samples"
    assert taken(x=torch.full((2, 4), 2.0**16).double(), most=2.0**20) is None, "every neuron would be near a decision"
    with kernels.using(None):
        assert taken() is None


def drive(positions=4, room=8, changed=None, **reads):
    inputs = Reads(torch.ones(2, 3, 5).double(), 2, 1, (15, 5, 0, 0), 1, torch.arange(5))
    weight = torch.ones(3, 5).double()
    given = {"packed": kernels.pack_driven(weight, 1), "weights": SplitWeights(weight, torch.zeros(3, 5).double())}
    ones = torch.ones(3).double()
    population = {"exponent": -20, "unit": -20, "bias": ones, "thresholds": ones, "potential": ones, "most": 8.0}
    changed = changed or {}
    given |= {name: value for name, value in changed.items() if name in given}
    population |= {name: value for name, value in changed.items() if name in population}
    return kernels.driven(
        dataclasses.replace(inputs, **reads), positions, given["packed"], given["weights"],
        Driven(neuron=KernelNeuron.spiking(CIF(), [True] * 3, None), error=2.0**-20, **population), -20, 2.0**-60, room, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"positions": 99},
        {"values": torch.ones(2, 3, 5)},
        {"strides": (15, 5, 0, -1)},
        {"groups": 0},
        {"groups": 2},
        {"changed": {"packed": torch.ones(1, 5, 63)}},
        {"changed": {"packed": torch.ones(1, 4, 64)}},
        {"changed": {"weights": SplitWeights(torch.ones(3, 4).double(), torch.ones(3, 5).double())}},
        {"changed": {"bias": torch.ones(2).double()}},
        {"changed": {"thresholds": torch.ones(3)}},
        {"changed": {"thresholds": torch.zeros(3).double()}},
        {"changed": {"potential": torch.full((3,), 2.0**40).double()}},
        {"changed": {"most": 2.0**12}},
    ],
)
def test_it_refuses_what_does_not_fit(wrong):
    spikes, near = drive()
    assert spikes.shape[1:] == (4, 3)
    assert not len(near)
    with pytest.raises((ValueError, RuntimeError), match=r"does not fit|must be"):
        drive(**wrong)


def test_more_undecided_neurons_than_there_is_room_for():
    half = torch.zeros(3, 5).double()
    half[:, 0] = 2.0**-21  # the middle between two multiples, at a threshold
    nothing = torch.zeros(3).double()
    changed = {"weights": SplitWeights(half, torch.zeros(3, 5).double()), "packed": kernels.pack_driven(half, 1)}
    changed |= {"bias": nothing, "potential": nothing + 1}
    _, near = drive(changed=changed, room=12)
    assert sorted(near.tolist()) == list(range(12))
    assert drive(changed=changed, room=11) is None
