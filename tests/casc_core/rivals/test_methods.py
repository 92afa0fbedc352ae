"""Methods that do something to a network first, on cases worked by hand; and which methods apply to which network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import casc_core
from casc_core import CIF, IF, Continuous, CQReLU, WakeSleep
from casc_core.rivals.methods import FOUR, OURS, QCFS, RIVALS, Calibrated, Method, PercentileReLU, chosen, methods_for
from casc_seq import RNN


def perceptron(weight, bias, q=4, threshold=1.0, half=False):
    """One neuron for each row of `weight`, read out as they are."""
    outputs, inputs = len(weight), len(weight[0])
    model = nn.Sequential(nn.Linear(inputs, outputs), CQReLU(q, threshold, half_step=half), nn.Linear(outputs, outputs))
    model[0].weight.data, model[0].bias.data = torch.tensor(weight), torch.tensor(bias)
    model[2].weight.data, model[2].bias.data = torch.eye(outputs), torch.zeros(outputs)
    return model


IF_METHOD = {"neuron": IF(), "schedule": Continuous()}


def test_percentile_thresholds_by_hand():
    """Activations 0.25, 0.5, 0.75 and 1 in equal parts: three quarters are at 0.75 or below."""
    model = perceptron([[1.0]], [0.0])
    data = torch.tensor([[0.25], [0.5], [0.75], [1.0]])
    network = PercentileReLU(percentile=75.0, **IF_METHOD).network(casc_core.convert(model), [data])
    threshold = network.ann[1].threshold
    assert threshold == pytest.approx(0.75, abs=1e-3)
    # A current of 0.6 a step: potentials 0.6, 1.2, 1.05 before firing, so 2 spikes in 3 steps, each worth the threshold.
    logits = network.simulate(torch.tensor([[0.6]]), T=3).logits[:, 0, 0]
    np.testing.assert_allclose(logits, [0.0, threshold / 2, 2 * threshold / 3], rtol=1e-3)
    assert model[1].threshold == 1.0


def test_percentiles_of_recurrent_layers():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.rnn, self.fc = nn.Embedding(9, 3), RNN(3, 6, batch_first=True, q=8), nn.Linear(6, 2)

        def forward(self, tokens):
            return self.fc(self.rnn(self.embedding(tokens))[0].sum(1))

    torch.manual_seed(0)
    snn, tokens = casc_core.convert(Text()), torch.randint(9, (8, 4))
    network = PercentileReLU(percentile=90.0, **IF_METHOD).network(snn, [tokens])
    with torch.no_grad():
        states = snn.ann.rnn(snn.ann.embedding(tokens))[0]
    assert network.ann.rnn.threshold == pytest.approx(float(states[states > 0].quantile(0.9)), abs=0.13)


def test_percentiles_need_the_network_as_trained(tmp_path):
    casc_core.convert(perceptron([[1.0]], [0.0])).save(tmp_path / "network")
    with pytest.raises(casc_core.ConfigError, match=r"load\(folder, model=...\) brings it back"):
        PercentileReLU(**IF_METHOD).network(casc_core.load(tmp_path / "network"), [torch.rand(3, 1)])


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
    from recorded import simulated

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


def test_which_methods_apply():
    plain, half = (casc_core.convert(perceptron([[1.0]], [0.0], half=half)) for half in (False, True))
    assert list(methods_for(plain, 16)) == [*FOUR, *RIVALS]
    assert list(methods_for(half, 16)) == [*FOUR, *(name for name in RIVALS if name != "OPI")]
    # With a half step, IF under continuous input is QCFS, if it was trained so.
    assert methods_for(half, 16)["baseline"].label == "baseline (IF) = QCFS"
    assert methods_for(half, 16, trained=False)["baseline"].label == "baseline (IF) = OPI"
    assert all("begin with half a threshold" in method.note for method in methods_for(half, 16).values())
    assert methods_for(plain, 16)["ACP"].steps == 16
    # A half step is where SRP begins already.
    assert methods_for(half, 16)["SRP"].neuron.initial_potential == 0.0


def test_every_method_says_what_it_is():
    for method in (*FOUR.values(), *RIVALS.values(), QCFS):
        assert method.label
        assert method.equations
        assert method.source
        assert method.config == f"{method.neuron} under {method.schedule}"
    assert FOUR[OURS].neuron == CIF()
    assert FOUR[OURS].schedule == WakeSleep()


def test_methods_by_name():
    assert list(chosen(FOUR, ["baseline+WSC"])) == ["baseline+WSC", OURS]
    assert list(chosen(FOUR, None)) == list(FOUR)
    with pytest.raises(
        casc_core.ConfigError, match=r"there is no method 'best' for this network; there are baseline, "
    ):
        chosen(FOUR, ["best"])


@pytest.mark.parametrize("steps", [0, 2.5, True])
def test_steps_of_a_calibration(steps):
    with pytest.raises(casc_core.ConfigError, match="steps must be an integer of at least 1"):
        Calibrated(steps=steps)


def test_a_method_is_frozen():
    with pytest.raises(AttributeError):
        Method().label = "another"


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
