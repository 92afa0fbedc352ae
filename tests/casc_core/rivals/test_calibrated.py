"""Biases and initial potentials that are calibrated, on cases worked by hand."""

from __future__ import annotations

import pytest
import torch
from one_layer import IF_METHOD, perceptron
from recorded import simulated
from torch import nn

import casc_core
from casc_core import IF, Continuous, CQReLU
from casc_core.rivals.calibrated import Calibrated
from casc_seq import RNN


def test_calibration_of_a_bias_by_hand():
    """A current of 0.7 a step: level 2 of 4, a rate of 0.5; in 4 steps the neuron emits 2, in 3 steps 2 again.

    For T = 3 the error is 2/4 - 2/3 = -1/6: the bias falls by 1/6 to a current of 0.5333, which emits 1 in 3 steps. What is
    left is 1/2 - 1/3 = 1/6, so the potential begins with 3/6: 0.5 + 3 * 0.5333 = 2.1 gives 2 spikes.
    """
    snn, x = casc_core.convert(perceptron([[0.7]], [0.0])), torch.ones(5, 1)
    network = Calibrated(steps=3, **IF_METHOD).network(snn, [x])
    population = next(op for op in network.operations() if op.is_layer)
    assert float(population.bias) == pytest.approx(-1 / 6, abs=1e-3)
    assert float(population.charge) == pytest.approx(1 / 2, abs=1e-3)
    assert [int(n) for n in network.simulate(x, T=3).spikes["1"].positive] == [5, 0, 5]
    own = next(op for op in snn.operations() if op.is_layer)
    assert (own.bias, own.charge) == (None, None)
    assert torch.equal(snn(x), snn.reference(x))


def test_calibration_is_by_channel_and_by_neuron():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), CQReLU(4), nn.Conv2d(3, 2, 3), CQReLU(4), nn.Flatten(), nn.Linear(32, 5), CQReLU(4),
        nn.Linear(5, 2),
    )  # fmt: skip
    snn, images = casc_core.convert(model), torch.rand(20, 1, 8, 8) * 3
    network = Calibrated(steps=6, **IF_METHOD).network(snn, [images])
    first, second, third = (op for op in network.operations() if op.is_layer)
    assert [tuple(op.bias.shape) for op in (first, second, third)] == [(3, 1, 1), (2, 1, 1), (5,)]
    assert [tuple(op.charge.shape) for op in (first, second, third)] == [(3, 6, 6), (2, 4, 4), (5,)]
    # Of the first layer, where nothing lies before: the published sums, channel by channel, then neuron by neuron.
    _, levels = snn.reference_counts((images,), {})
    plain = snn.under(IF(), Continuous())
    _, counts = simulated(plain, images, T=6)
    error = (levels["1"] / 4 - counts["1"] / 6).double()
    torch.testing.assert_close(first.bias.flatten(), error.mean((0, 2, 3)), atol=1e-3, rtol=0)
    assert torch.equal(snn(images), snn.reference(images))


def test_calibration_of_texts_leaves_padding_out():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.rnn, self.fc = nn.Embedding(9, 3), RNN(3, 6, batch_first=True, q=4), nn.Linear(6, 2)

        def forward(self, tokens, lengths):
            return self.fc(self.rnn(self.embedding(tokens), lengths=lengths)[0].sum(1))

    torch.manual_seed(1)
    snn = casc_core.convert(Text())
    tokens, lengths = torch.randint(1, 9, (6, 4)), torch.tensor([4, 3, 2, 2, 1, 1])
    biases = []
    for more in (0, 5):
        padded = torch.cat([tokens, torch.zeros(6, more, dtype=torch.long)], 1)
        network = Calibrated(steps=6, **IF_METHOD).network(snn, [(padded, lengths)])
        population = next(op for op in network.operations() if op.is_layer)
        assert population.charge is None
        biases.append(population.bias)
    assert torch.equal(*biases)


class Convolved(nn.Module):
    """Texts, or series of numbers, through a convolution; `last`: its channels are the last dimension of the neurons."""

    def __init__(self, reads_texts, last):
        super().__init__()
        self.embedding, self.conv, self.act = nn.Embedding(9, 3), nn.Conv1d(3, 5, 3, padding=1), CQReLU(4)
        self.fc, self.reads_texts, self.last = nn.Linear(5, 2), reads_texts, last

    def forward(self, x):
        x = self.conv(self.embedding(x).transpose(1, 2) if self.reads_texts else x)
        return self.fc(self.act(x.transpose(1, 2)).amax(1) if self.last else self.act(x).amax(2))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("reads_texts", [True, False])
def test_calibration_of_convolutions_along_a_sequence(reads_texts, last):
    """A bias for each channel and no potentials by position: other batches are of other lengths."""
    torch.manual_seed(1)
    snn = casc_core.convert(Convolved(reads_texts, last))
    x, longer = (torch.randint(1, 9, (6, n)) if reads_texts else torch.randn(6, 3, n) for n in (4, 7))
    network = Calibrated(steps=6, **IF_METHOD).network(snn, [x])
    population = next(op for op in network.operations() if op.is_layer)
    assert population.charge is None
    _, levels = snn.reference_counts((x,), {})
    _, counts = simulated(snn.under(IF(), Continuous()), x, T=6)
    error = (levels["act"] / 4 - counts["act"] / 6).double().mean((0, 1) if last else (0, 2))
    torch.testing.assert_close(population.bias.flatten(), error, atol=1e-3, rtol=0)
    assert network.simulate(longer, T=3).logits.shape == (3, 6, 2)


@pytest.mark.parametrize("steps", [0, 2.5, True])
def test_steps_of_a_calibration(steps):
    with pytest.raises(casc_core.ConfigError, match="steps must be an integer of at least 1"):
        Calibrated(steps=steps)


def test_calibration_by_thresholds_of_each_channel():
    """Channel 0: a current of 0.35 in steps of 0.5 is 0.7 of it, as in the case by hand; channel 1: 1.4 in steps of 2."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), casc_core.CQReLU(4, torch.tensor([0.5, 2.0])), nn.Flatten())
    model[0].weight.data, model[0].bias.data = torch.tensor([0.35, 1.4]).reshape(2, 1, 1, 1), torch.zeros(2)
    images = torch.ones(3, 2, 1, 1)
    snn = casc_core.convert(model)
    network = Calibrated(steps=3, **IF_METHOD).network(snn, [images])
    found = network.simulate(images, T=3).spikes["1"]
    plain = snn.under(**IF_METHOD).simulate(images, T=3).spikes["1"]
    assert plain.positive.tolist() == [0, 6, 6]
    assert found.positive.tolist() == [6, 0, 6]


@pytest.mark.parametrize("batch_first", [True, False])
def test_calibration_of_texts_along_either_dimension(batch_first):
    class Text(nn.Module):
        def __init__(self, batch_first):
            super().__init__()
            self.embedding, self.rnn = nn.Embedding(9, 3), RNN(3, 6, batch_first=batch_first, q=4)
            self.fc, self.positions = nn.Linear(6, 2), 1 if batch_first else 0

        def forward(self, tokens):
            return self.fc(self.rnn(self.embedding(tokens))[0].sum(self.positions))

    biases = []
    for first in (True, batch_first):
        torch.manual_seed(1)
        model, tokens = Text(first), torch.randint(1, 9, (6, 4))
        inputs = tokens if first else tokens.T.contiguous()
        network = Calibrated(steps=6, **IF_METHOD).network(casc_core.convert(model), [inputs])
        biases.append(next(op for op in network.operations() if op.is_layer).bias)
    assert torch.equal(*biases)
