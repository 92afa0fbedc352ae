"""Batch normalisation: folded into the linear map that follows, else a factor and a shift for each channel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import casc_core
from casc_core import ConversionError, CQReLU, InputError


def trained(model: nn.Module) -> nn.Module:
    """With statistics and weights as training might leave them, among them a channel that hardly varies."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.01, 2)
            module.running_var[0] = 0.0
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


class OverTokens(nn.Module):
    """Normalises channels of `[batch, channels, tokens]`."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.embedding, self.act = nn.Embedding(20, width), CQReLU(4)
        self.norm, self.fc = nn.BatchNorm1d(width), nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        channels = self.norm(self.act(self.embedding(tokens)).transpose(1, 2))
        return self.fc(channels.transpose(1, 2).sum(1))


class Confusing(OverTokens):
    """As many tokens as channels, and a linear map over the tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.norm(self.act(self.embedding(tokens)).transpose(1, 2))).sum(1)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(6, 5), CQReLU(4), nn.BatchNorm1d(5), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(6, 5), CQReLU(4), nn.BatchNorm1d(5, affine=False), nn.Identity(), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), CQReLU(4), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(6, 5), CQReLU(4, 0.7), nn.Linear(5, 4), nn.BatchNorm1d(4), CQReLU(4), nn.Linear(4, 3)),
        nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5), CQReLU(4), nn.BatchNorm1d(5)),
    ],
)  # fmt: skip
def test_it_is_exact_and_the_same_function(model: nn.Module):
    trained(model)
    x = torch.randn(40, 6)
    snn = casc_core.convert(model, adapter="rnn")
    report = casc_core.verify(snn, x)
    assert report.exact, str(report)
    assert sum(int(layer.positive.sum()) for layer in snn.simulate(x).spikes.values()) > 0
    same = casc_core.convert(model, adapter="rnn", numerics="as trained").reference(x)
    torch.testing.assert_close(same, model(x), rtol=1e-4, atol=1e-3)


def test_it_normalises_channels_and_not_the_last_dimension():
    model = trained(OverTokens())
    tokens = torch.randint(0, 20, (9, 7))
    assert casc_core.verify(casc_core.convert(model, adapter="rnn"), tokens).exact
    same = casc_core.convert(model, adapter="rnn", numerics="as trained").reference(tokens)
    torch.testing.assert_close(same, model(tokens), rtol=1e-4, atol=1e-3)


def test_a_fold_that_would_be_wrong_is_refused_when_it_runs():
    snn = casc_core.convert(trained(Confusing()), adapter="rnn")
    with pytest.raises(InputError, match=r"fc: batch normalisation before it was folded .* got \[2, 5, 5\]"):
        snn(torch.randint(0, 20, (2, 5)))


def test_without_running_statistics_it_is_refused():
    model = nn.Sequential(nn.Linear(6, 5), CQReLU(4), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    with pytest.raises(ConversionError, match="track_running_stats=True"):
        casc_core.convert(model, adapter="rnn")
