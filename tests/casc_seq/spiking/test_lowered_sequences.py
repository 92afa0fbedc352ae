"""What stands in front of a recurrent layer, against the network itself in float64 on binary fractions of few bits."""

import copy

import pytest
import torch
from torch import nn

import casc_core
import casc_seq
from casc_core import CQReLU

Q = 8
TOKENS = torch.randint(0, 11, (5, 6), generator=torch.Generator().manual_seed(0))
SERIES = torch.randint(-64, 64, (5, 6, 4, 3), generator=torch.Generator().manual_seed(0)) / 32


class Net(nn.Module):
    """An embedding, linear maps and two recurrent layers; the forward is given."""

    def __init__(self, forward):
        super().__init__()
        self.emb, self.act, self.most = nn.Embedding(11, 4), CQReLU(Q), CQReLU(Q, 0.75)
        self.first, self.second = casc_seq.RNN(4, 4, batch_first=True, q=Q), casc_seq.RNN(4, 3, batch_first=True, q=Q)
        self.map, self.other, self.conv = nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv1d(4, 4, 3, padding=1)
        self.bn, self.fc, self.inner = nn.BatchNorm1d(4, eps=0.0), nn.Linear(3, 2), forward
        for parameter in self.parameters():
            parameter.data = (parameter.data * 8).round() / 8
        self.bn.running_mean, self.bn.running_var = (
            torch.tensor([0.5, -0.25, 0.0, 1.0]),
            torch.tensor([0.25, 4.0, 1.0, 1.0]),
        )

    def forward(self, x):
        return self.fc(self.second(self.inner(self, x))[0].sum(1) / 8)


FORWARDS = {
    "spikes": (TOKENS, lambda s, x: s.first(s.emb(x))[0]),
    "a map": (TOKENS, lambda s, x: s.map(s.first(s.emb(x))[0])),
    "two maps": (TOKENS, lambda s, x: s.other(-2 * s.map(s.first(s.emb(x))[0]))),
    "a negated map": (TOKENS, lambda s, x: 1 - s.map(-s.first(s.emb(x))[0])),
    "a convolution": (TOKENS, lambda s, x: s.conv(s.first(s.emb(x))[0].transpose(1, 2)).transpose(1, 2)),
    "a normalisation": (TOKENS, lambda s, x: s.bn(s.first(s.emb(x))[0].transpose(1, 2) * 2).transpose(1, 2)),
    "a third": (TOKENS, lambda s, x: s.map(s.most(s.first(s.emb(x))[0] / 3))),
    "a sum of spikes": (SERIES, lambda s, x: s.act(x).sum(-1) / 4),
    "a mean of inputs": (SERIES, lambda s, x: x.mean(-1)),
    "a mapped mean of inputs": (SERIES, lambda s, x: s.map(x[..., :2].mean(-1))),
}


@pytest.mark.parametrize(("x", "forward"), FORWARDS.values(), ids=FORWARDS)
def test_levels_are_those_of_the_network_itself(x, forward):
    torch.manual_seed(0)
    model = Net(forward).eval()
    snn = casc_core.convert(model, adapter="rnn")
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x.double() if x.is_floating_point() else x)
    torch.testing.assert_close(snn.reference(x).double(), expected, rtol=1e-6, atol=1e-6)
    assert casc_core.verify(snn, x).exact
    assert expected.unique(dim=0).shape[0] > 1


def test_a_mean_over_spikes_is_not_given_to_a_recurrence():
    with pytest.raises(casc_core.ConversionError, match="divide after the recurrence"):
        casc_core.convert(Net(lambda s, x: s.act(x).mean(-1)), adapter="rnn")
