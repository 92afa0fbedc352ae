"""A user's own recurrent classifier, from start to end."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import casc_core
from casc_seq.layers.rnn import RNN


class NewsNet(nn.Module):
    """As a newcomer would write it."""

    def __init__(self, vocab_size, embed_dim=8, hidden_dim=6, num_classes=4):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=0)
        self.rnn = nn.RNN(embed_dim, hidden_dim, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(hidden_dim * 2, num_classes)

    def forward(self, text):
        embedded = self.dropout(self.embedding(text))
        output, _ = self.rnn(embedded)
        pooled, _ = torch.max(output, dim=1)
        return self.fc(self.dropout(pooled))


def test_a_users_own_model_from_prepare_to_load(tmp_path):
    torch.manual_seed(0)
    texts, labels = torch.randint(1, 50, (64, 9)), torch.arange(64) % 4
    texts[:, 3] = labels + 1
    model = NewsNet(50)
    ann = casc_core.prepare(model, adapter="rnn", q=4)
    assert isinstance(ann, NewsNet)
    optimiser = torch.optim.Adam(ann.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = F.cross_entropy(ann(texts), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    ann.eval()
    snn = casc_core.convert(ann, adapter="rnn")
    report = casc_core.verify(snn, texts)
    assert report.exact, str(report)
    assert list(report.layers) == ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse"]
    assert (snn(texts).argmax(1) == ann(texts).argmax(1)).float().mean() > 0.9
    snn.save(tmp_path / "news")
    loaded = casc_core.load(tmp_path / "news")
    assert torch.equal(loaded(texts), snn(texts))
    assert casc_core.verify(casc_core.load(tmp_path / "news", ann), texts).ann_predictions_moved is not None


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.rnn = nn.RNN(3, 4, **options)
        self.fc = nn.Linear(4 * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x, hx=None):
        return self.fc(self.rnn(x, hx)[0].mean(1 if self.rnn.batch_first else 0))


def on_grid(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((torch.rand(p.shape, generator=generator) * 128 - 64).round() / 64)
    return model


X = (torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(1)) * 64).round() / 64


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_every_form_of_rnn(nonlinearity, layers, bidirectional, batch_first):
    model = on_grid(
        Net(num_layers=layers, nonlinearity=nonlinearity, bidirectional=bidirectional, batch_first=batch_first)
    )
    ann = casc_core.prepare(model, q=4).eval()
    assert list(ann.state_dict()) == list(model.state_dict())
    snn = casc_core.convert(ann)
    start = (
        torch.rand(layers * (1 + bidirectional), 5, 4, generator=torch.Generator().manual_seed(2)) * 64
    ).round() / 64
    for inputs in ((X,), (X, start)):
        assert casc_core.verify(snn, *inputs).exact
        torch.testing.assert_close(snn(*inputs), ann(*inputs).detach(), rtol=1e-5, atol=1e-5)
    assert not torch.equal(snn(X), snn(X, start))


def test_an_initial_state_of_the_wrong_shape():
    snn = casc_core.convert(casc_core.prepare(on_grid(Net(batch_first=True)), q=2))
    with pytest.raises(casc_core.InputError, match=r"expected hx of shape \[cells, 5, 4\]; got \[1, 2, 4\]"):
        snn(X, torch.ones(1, 2, 4))


def test_one_sequence_without_a_batch_is_refused():
    snn = casc_core.convert(casc_core.prepare(on_grid(Net(batch_first=True)), q=2))
    with pytest.raises(
        casc_core.InputError, match=r"rnn: expected a non-empty batch of sequences.* shape \[5, 4\].*unsqueeze"
    ):
        snn(X[0])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_recurrence_reads_the_sum_of_two_maps(kind):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.relu = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()
            self.cells, self.fc = kind(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            x = self.relu(self.a(x))
            return self.fc(self.cells(self.b(x) + self.c(x))[0][:, -1])

    torch.manual_seed(0)
    for numerics in (casc_core.AsTrained(), casc_core.Exact(8)):
        snn = casc_core.convert(casc_core.prepare(Model().eval(), q=4), numerics=numerics)
        assert casc_core.verify(snn, torch.randn(3, 6, 3)).exact


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("threshold", [0.25, 1.0])
def test_weights_have_the_bits_asked_for(bits, threshold):
    """Also where the neurons' potentials are on a finer grid."""
    torch.manual_seed(1)
    rnn = RNN(6, 9, num_layers=2, batch_first=True, q=4, threshold=threshold)
    model = type("Model", (nn.Module,), {"forward": lambda self, x: self.fc(self.rnn(x)[0].sum(1))})()
    model.rnn, model.fc = rnn, nn.Linear(9, 3)
    snn = casc_core.convert(model.eval(), adapter="rnn", numerics=casc_core.Exact(weight_bits=bits))
    maps = [op.weight for op in snn.operations() if getattr(op, "weight", None) is not None]
    assert len(maps) == 4  # both recurrences, the second layer's input map, the readout
    for weight in maps:
        grid = next(2.0**-k for k in range(40) if bool((weight.double() * 2.0**k % 1 == 0).all()))
        assert float(weight.double().abs().max()) / grid <= 2 ** (bits - 1) - 1
    x = torch.randn(5, 4, 6)
    assert torch.equal(snn(x), snn.reference(x))
