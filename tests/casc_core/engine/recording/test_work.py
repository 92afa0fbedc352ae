"""Operations against a count by hand: a loop over spikes and synapses in NumPy; multiply-accumulates by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import casc_core
from casc_core import CIF, IF, Burst, Continuous, CQReLU, EnergyTable, WakeSleep
from casc_core.engine.kernels import all_instructions, using
from casc_core.engine.recording.recorder import Recorder
from casc_seq import RNN

KINDS = {"CASC": (CIF(), WakeSleep()), "baseline": (IF(), Continuous()), "burst": (Burst(gamma=3), Continuous())}


def recorded(snn, inputs, T):
    """A simulation, and every spike `[steps, ...]` of every layer."""
    recorder = Recorder(keep_trains=True)
    simulation = snn.simulate_recorded(inputs, {}, T, recorder)
    trains = {}
    for name, train in recorder.trains.items():
        missing = simulation.T - len(train)
        trains[name] = np.pad(train.numpy().astype(np.int64), [(0, missing)] + [(0, 0)] * (train.dim() - 1))
    return simulation, trains


def convolved_synapses(train, weight, stride, padding, groups, dilation=1):
    """For each step, a loop over spikes `[steps, B, C, H, W]`, and for each spike over the synapses that it meets."""
    outputs, _, height, width = weight.shape
    steps, _, channels, rows, columns = train.shape
    out_rows = (rows + 2 * padding - dilation * (height - 1) - 1) // stride + 1
    out_columns = (columns + 2 * padding - dilation * (width - 1) - 1) // stride + 1
    made = np.zeros(steps)
    for step, _, channel, y, x in zip(*train.nonzero(), strict=True):
        spikes = abs(train[step, _, channel, y, x])
        for output in range(outputs):
            if output // (outputs // groups) != channel // (channels // groups):
                continue
            for i in range(height):
                for j in range(width):
                    row, row_left = divmod(y + padding - i * dilation, stride)
                    column, column_left = divmod(x + padding - j * dilation, stride)
                    if row_left == column_left == 0 and 0 <= row < out_rows and 0 <= column < out_columns:
                        made[step] += spikes
    return made


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    groups=st.sampled_from((1, 2, 4)),
    dilation=st.integers(1, 2),
    kind=st.sampled_from(list(KINDS)),
)
def test_a_convolutional_network(seed, stride, padding, groups, dilation, kind):
    torch.manual_seed(seed)
    second = nn.Conv2d(4, 8, 3, stride, padding, dilation, groups)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        CQReLU(2),
        second,
        CQReLU(2),
        nn.Flatten(),
        nn.LazyLinear(5),
        CQReLU(2),
        nn.Linear(5, 3),
    )
    images = torch.rand(2, 2, 6, 6) * 3
    model(images)
    neuron, schedule = KINDS[kind]
    snn = casc_core.convert(model, neuron=neuron, schedule=schedule)
    simulation, trains = recorded(snn, (images,), 4 if kind == "burst" else 6)
    spikes, awake = simulation.spikes, np.array(snn.settings.schedule.awake(simulation.T))
    assert not spikes["1"].operations.any()
    np.testing.assert_array_equal(
        spikes["3"].operations.numpy(),
        convolved_synapses(trains["1"], second.weight, stride, padding, groups, dilation),
    )
    for before, layer, outputs in (("3", "6", 5), ("6", None, 3)):
        arrived = np.abs(trains[before]).reshape(simulation.T, -1).sum(1) * outputs
        found = simulation.readout_operations if layer is None else spikes[layer].operations
        np.testing.assert_array_equal(found.numpy(), arrived)
    # The first layer multiplies its real-valued input at each wake step; every other has its biases.
    first = convolved_synapses(np.ones((1, 2, 2, 6, 6), dtype=np.int64), model[0].weight, 1, 1, 1)[0]
    neurons = {name: train[0].size for name, train in trains.items()}
    np.testing.assert_array_equal(spikes["1"].multiplications.numpy(), awake * (first + neurons["1"]))
    np.testing.assert_array_equal(spikes["3"].multiplications.numpy(), awake * neurons["3"])
    np.testing.assert_array_equal(simulation.readout_multiplications.numpy(), awake * 2 * 3)
    # The ANN multiplies what a spike of every neuron would meet.
    ones = np.ones((1, *trains["1"].shape[1:]), dtype=np.int64)
    dense = convolved_synapses(ones, second.weight, stride, padding, groups, dilation)[0]
    assert spikes["1"].ann_multiplications == first
    assert spikes["3"].ann_multiplications == dense
    assert simulation.readout_ann_multiplications == 2 * 5 * 3


class Residual(nn.Module):
    """A shortcut, an average over windows, and one over all positions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.act1, self.act2, self.pool = CQReLU(2), CQReLU(2), nn.AvgPool2d(2)
        self.conv3, self.act3, self.fc = nn.Conv2d(2, 3, 1, bias=False), CQReLU(2), nn.Linear(3, 2)

    def forward(self, x):
        x = self.act1(self.conv1(x))
        x = self.act2(self.conv2(x) + x)
        x = self.act3(self.conv3(self.pool(x)))
        return self.fc(x.mean((2, 3)))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(list(KINDS)))
def test_every_spike_counts_also_where_sums_put_them_together(seed, kind):
    torch.manual_seed(seed)
    model, images = Residual(), torch.randn(2, 1, 4, 4) * 2
    neuron, schedule = KINDS[kind]
    snn = casc_core.convert(model, neuron=neuron, schedule=schedule)
    for choice in all_instructions():
        with using(choice):
            simulation, trains = recorded(snn, (images,), 5)
        spikes = simulation.spikes
        by_convolution = convolved_synapses(trains["act1"], model.conv2.weight, 1, 1, 1)
        by_shortcut = np.abs(trains["act1"]).reshape(5, -1).sum(1)
        np.testing.assert_array_equal(spikes["act2"].operations.numpy(), by_convolution + by_shortcut)
        np.testing.assert_array_equal(
            spikes["act3"].operations.numpy(), np.abs(trains["act2"]).reshape(5, -1).sum(1) * 3
        )
        np.testing.assert_array_equal(
            simulation.readout_operations.numpy(), np.abs(trains["act3"]).reshape(5, -1).sum(1) * 2
        )
        assert not spikes["act2"].multiplications.any()  # no bias, no real-valued input
        assert spikes["act2"].ann_multiplications == convolved_synapses(
            np.ones((1, 2, 2, 4, 4), dtype=np.int64), model.conv2.weight, 1, 1, 1
        )
        # The ANN averages first, so it multiplies once for each window.
        assert spikes["act3"].ann_multiplications == 2 * 2 * 2 * 2 * 3
        assert simulation.readout_ann_multiplications == 2 * 3 * 2


class Text(nn.Module):
    def __init__(self, mean, layers, both):
        super().__init__()
        self.mean, hidden = mean, 4
        self.embedding = nn.Embedding(9, 3)
        self.rnn = RNN(3, hidden, layers, batch_first=True, bidirectional=both, q=2)
        self.fc = nn.Linear(hidden * (1 + both), 3)

    def forward(self, tokens, lengths):
        states, _ = self.rnn(self.embedding(tokens), lengths=lengths)
        return self.fc(states.sum(1) / lengths.unsqueeze(1) if self.mean else states.amax(1))


def running_maximum_changes(train):
    """`[steps, B, L, H]` to the changes `[steps, B, H]` of the largest total over positions."""
    now = train.cumsum(0).max(2)
    return np.diff(now, axis=0, prepend=0 * now[:1])


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    mean=st.booleans(),
    layers=st.integers(1, 2),
    both=st.booleans(),
    kind=st.sampled_from(list(KINDS)),
)
def test_a_recurrent_network(seed, mean, layers, both, kind):
    torch.manual_seed(seed)
    model = Text(mean, layers, both)
    for parameter in model.rnn.parameters():
        parameter.data *= 2
    tokens, lengths = torch.randint(1, 9, (3, 5)), torch.tensor([5, 2, 3])
    neuron, schedule = KINDS[kind]
    snn = casc_core.convert(model, neuron=neuron, schedule=schedule)
    for choice in all_instructions():
        with using(choice):
            simulation, trains = recorded(snn, (tokens, lengths), 5)
        awake = np.array(snn.settings.schedule.awake(5))
        real, hidden = int(lengths.sum()), 4
        names, below = list(trains), None
        for layer in range(layers):
            own = names[layer * (1 + both) : (layer + 1) * (1 + both)]
            for direction, name in enumerate(own):
                made = np.zeros(5)
                for step, text, place, _ in zip(*trains[name].nonzero(), strict=True):
                    reaches = place > 0 if direction else place < int(lengths[text]) - 1
                    made[step] += reaches * abs(trains[name][step, text, place, _]) * hidden
                inputs = 3 if below is None else hidden * (1 + both)
                if below is not None:
                    made += sum(np.abs(trains[each]).reshape(5, -1).sum(1) for each in below) * hidden
                spikes = simulation.spikes[name]
                np.testing.assert_array_equal(spikes.operations.numpy(), made, err_msg=f"{choice}, {name}")
                # Real-valued embeddings at wake steps, though they are looked up; and a bias for each neuron.
                each = real * hidden * ((inputs if below is None else 0) + 1)
                np.testing.assert_allclose(spikes.multiplications.numpy(), awake * each, rtol=1e-12)
                dense = real * inputs * hidden + (real - len(lengths)) * hidden**2
                assert spikes.ann_multiplications == pytest.approx(dense, rel=1e-12)
            below = own
        last = [np.abs(trains[name]) if mean else np.abs(running_maximum_changes(trains[name])) for name in below]
        arrived = sum(train.reshape(5, -1).sum(1) for train in last) * 3
        np.testing.assert_array_equal(simulation.readout_operations.numpy(), arrived)
        assert simulation.readout_ann_multiplications == 3 * hidden * (1 + both) * 3


def test_currents_through_a_second_map_are_multiplied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), CQReLU(2), nn.Linear(4, 5), nn.Linear(5, 6), CQReLU(2), nn.Linear(6, 2))
    snn = casc_core.convert(model, numerics="exact")  # as trained, the two maps become one
    simulation, trains = recorded(snn, (torch.randn(8, 3).abs() * 2,), 4)
    spiking = trains["1"].any(-1).sum(-1)  # samples in which some spike arrives: all five currents flow
    second = simulation.spikes["4"]
    np.testing.assert_array_equal(second.operations.numpy(), np.abs(trains["1"]).reshape(4, -1).sum(1) * 5)
    biases = (
        np.array(snn.settings.schedule.awake(4)) * 8 * (5 * 6 + 5 + 6)
    )  # the first map's bias goes through the second
    np.testing.assert_array_equal(second.multiplications.numpy(), biases + spiking * 5 * 6)


def test_energy():
    table = EnergyTable(mac=2.0, ac=0.5, name="mine", source="me")
    assert table.picojoules(3.0, 10.0) == 11.0
    assert torch.equal(table.picojoules(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])), torch.tensor([3.0, 6.0]))


@pytest.mark.parametrize("values", [{"mac": -1.0}, {"ac": float("inf")}, {"mac": "much"}])
def test_energy_must_be_a_number(values):
    with pytest.raises(casc_core.ConfigError, match="in pJ, must be a finite number of at least 0; got"):
        EnergyTable(**values)
