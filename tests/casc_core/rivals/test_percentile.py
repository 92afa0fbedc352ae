"""Thresholds balanced by data, on cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_layer import IF_METHOD, perceptron
from torch import nn

import casc_core
from casc_core.rivals.percentile import PercentileReLU
from casc_seq import RNN


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
