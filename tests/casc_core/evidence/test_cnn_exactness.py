"""Convolutional networks against an independent simulation: every count of every neuron, every readout, every schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cnn_oracle import Network, exactly
from engines import ENGINES, engine
from graph_oracle import at_each_step
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import grid_array
from recorded import simulated
from torch import Tensor, nn

import casc_core
from casc_core import CIF, IF, Continuous, CQReLU, WakeSleep

POOLS = (("max", 2, 2, 0), ("max", 3, 1, 1), ("max", 3, 2, 1), ("mean", 2, 2, 0), ("mean", 2, 1, 0), ("max", 1, 1, 0),
         ("max", 1, 2, 0))  # fmt: skip
PARTLY = ("mean", 3, 1, 1)  # its windows hold 4, 6 or 9 entries


class Mirror(nn.Module):
    """The oracle's network as a PyTorch module, batch norm and all."""

    def __init__(self, oracle: Network, q: int) -> None:
        super().__init__()
        self.oracle = oracle
        for index, (weight, bias) in enumerate(zip(oracle.convolutions, oracle.biases, strict=True)):
            groups = oracle.groups if index == 1 else 1
            conv = nn.Conv2d(
                weight.shape[1] * groups, len(weight), weight.shape[2], padding=weight.shape[2] // 2, groups=groups
            )
            with torch.no_grad():
                conv.weight.copy_(torch.tensor(weight))
                conv.bias.copy_(torch.tensor(bias))
            setattr(self, f"conv{index}", conv)
        for index, own in enumerate(oracle.norms):
            norm = nn.BatchNorm2d(len(own.mean), eps=0.0)
            with torch.no_grad():  # a factor of two less, and a variance of a quarter
                norm.weight.copy_(torch.tensor(own.factor / 2))
                norm.running_var.fill_(0.25)
                norm.running_mean.copy_(torch.tensor(own.mean))
                norm.bias.copy_(torch.tensor(own.offset))
            setattr(self, f"norm{index}", norm)
        for index, threshold in enumerate(oracle.thresholds):
            given = float(threshold[0]) if len(threshold) == 1 else torch.tensor(threshold)
            setattr(self, f"act{index}", CQReLU(q, given))
        if oracle.shortcut is not None:
            self.short = nn.Conv2d(*oracle.shortcut.shape[1::-1], 1, bias=False)
            self.short.weight.data.copy_(torch.tensor(oracle.shortcut))
        self.fc = nn.Linear(oracle.w_out.shape[1], 3)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor(oracle.w_out))
            self.fc.bias.copy_(torch.tensor(oracle.b_out))

    def pool(self, which: int, x: Tensor) -> Tensor:
        kind, kernel, stride, padding = self.oracle.pools[which]
        if kind == "max":
            return F.max_pool2d(x, kernel, stride, padding)
        return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(0, self.act0(self.norm0(self.conv0(x))))
        y = self.conv2(self.act1(self.norm1(self.conv1(x))))
        short = x if self.oracle.shortcut is None else self.short(x)
        y = self.norm2(y + short) if self.oracle.norm_last else self.norm2(y) + short
        y = F.max_pool2d(self.conv3(self.act2(y)), 2, 1)
        return self.fc(self.pool(1, self.act3(y)).flatten(1))


def agree(oracle, model, images, neuron, schedule, steps, ways):
    """Both simulations are equal by each way; returns the library's and the oracle's counts."""
    snn = casc_core.convert(model.eval(), adapter="cnn").under(neuron, schedule)
    in_fractions = oracle.convolutions[0].dtype == object
    expected = None
    for way in ways:
        with engine(way):
            simulation, counts = simulated(snn, torch.tensor(images).float(), T=steps)
        if expected is None:
            awake = schedule.awake(simulation.T)
            given = exactly(images) if in_fractions else images
            expected = oracle.simulate(given, awake, negative=isinstance(neuron, CIF))
        readouts = expected.readouts
        for name, total in zip(snn.layers, expected.counts, strict=True):
            np.testing.assert_array_equal(counts[name].numpy(), total.astype(np.int64), err_msg=f"{way}, {name}")
        if in_fractions:
            np.testing.assert_allclose(simulation.logits.numpy(), readouts.astype(np.float64), rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(simulation.logits.numpy(), readouts.astype(np.float32), err_msg=str(way))
        np.testing.assert_array_equal(simulation.silent_at.numpy(), expected.last, err_msg=str(way))
        layers = [simulation.spikes[name].operations for name in snn.layers]
        found = torch.stack([*layers, simulation.readout_operations], 1)
        np.testing.assert_array_equal(found.numpy(), expected.operations, err_msg=str(way))
    return simulation, expected.counts


@pytest.mark.filterwarnings("ignore:.* but the model was trained with:UserWarning")
@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    q=st.sampled_from((1, 2, 3, 4, 8)),
    pools=st.tuples(st.sampled_from(POOLS), st.sampled_from(POOLS)),
    groups=st.sampled_from((1, 2, 4)),
    norm_last=st.booleans(),
    projected=st.booleans(),
    per_channel=st.booleans(),
    neuron=st.sampled_from((IF(), CIF())),
    cycles=st.integers(0, 3),
    wake=st.integers(1, 4),
    sleep=st.integers(0, 3),
    steps=st.integers(1, 12),
    way=st.sampled_from(ENGINES),
)
def test_every_step_of_every_schedule_equals_the_oracle(
    seed, q, pools, groups, norm_last, projected, per_channel, neuron, cycles, wake, sleep, steps, way
):
    rng = np.random.default_rng(seed)
    oracle = Network.random(rng, pools, groups, norm_last, projected, per_channel)
    schedule = Continuous() if cycles == 0 else WakeSleep(wake, sleep, cycles)
    images = grid_array(rng, 2, 2, 6, 6, bits=4)
    with at_each_step():
        agree(oracle, Mirror(oracle, q), images, neuron, schedule, steps, [way])


@pytest.mark.parametrize("q", [2, 4, 8, 16])
@pytest.mark.parametrize("neuron", [IF(), CIF()], ids=str)
@pytest.mark.parametrize("schedule", [WakeSleep(), Continuous()], ids=str)
def test_the_four_methods_by_every_engine(q, neuron, schedule):
    rng = np.random.default_rng(q)
    oracle = Network.random(rng, (POOLS[1], POOLS[3]), groups=2, projected=q > 2)
    images, model = grid_array(rng, 2, 2, 6, 6, bits=4), Mirror(oracle, q)
    steps = None if isinstance(schedule, WakeSleep) and isinstance(neuron, CIF) else 2 * q + 3
    simulation, counts = agree(oracle, model, images, neuron, schedule.resolved(q), steps, ENGINES)
    assert all(total.any() for total in counts)
    if steps is None:
        snn = casc_core.convert(model.eval(), adapter="cnn")
        assert torch.equal(simulation.logits[-1], snn.reference(torch.tensor(images).float()))
        # On this grid the network as trained computes without rounding too.
        torch.testing.assert_close(
            simulation.logits[-1], model(torch.tensor(images).float()).detach(), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("neuron", [IF(), CIF()], ids=str)
@pytest.mark.parametrize("schedule", [WakeSleep(3, 2, 1), WakeSleep(2, 1, 2), Continuous()], ids=str)
def test_averages_over_windows_of_different_sizes_equal_fractions(neuron, schedule):
    rng = np.random.default_rng(3)
    oracle = Network.random(rng, (PARTLY, PARTLY), per_channel=True)
    images = grid_array(rng, 1, 2, 6, 6, bits=4)
    model = Mirror(oracle, schedule.levels or 3)
    agree(oracle.in_fractions(), model, images, neuron, schedule, 9, ENGINES)


def test_larger_networks_by_every_engine():
    """Enough channels for whole vectors, and more than one block of them."""
    rng = np.random.default_rng(0)
    oracle = Network.random(rng, (POOLS[0], POOLS[4]), groups=2, size=8, channels=66)
    images, model = grid_array(rng, 1, 2, 8, 8, bits=4), Mirror(oracle, 4)
    agree(oracle, model, images, CIF(), WakeSleep(4, 4), None, ENGINES)
