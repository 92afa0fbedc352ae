"""Recurrent layers as ONNX: in onnxruntime, the bits of their references, at any batch and any length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import casc_core
from casc_core import AsTrained, Exact
from casc_seq import GRU, LSTM, RNN
from casc_seq.classifier import ClassifierConfig, TextClassifier
from casc_seq.text import sample

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_runs import answers, compare, opened

VOCABULARY = 30


def texts(batch, length, seed=0):
    """Tokens, padded at the end with 0, and lengths, of which one is the longest."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, VOCABULARY, (batch, length), generator=generator)
    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    lengths[0] = length
    tokens[torch.arange(length) >= lengths[:, None]] = 0
    return tokens, lengths


def classifier(**options):
    torch.manual_seed(3)
    config = ClassifierConfig(VOCABULARY, 3, embedding_size=4, hidden_size=5, **options)
    return TextClassifier(config).eval()


@pytest.mark.parametrize("numerics", [AsTrained(), Exact(8)], ids=str)
@pytest.mark.parametrize(
    ("options", "with_lengths"),
    [
        ({"pooling": "mean+max", "q": 2}, True),
        ({"pooling": "last", "num_layers": 2, "q": 4}, False),
        ({"pooling": "mean", "cell": "gru", "bidirectional": False, "fc_size": 4, "q": 4}, False),
        ({"pooling": "last", "cell": "gru", "num_layers": 2, "q": 3}, True),
        ({"pooling": "sum", "cell": "lstm", "num_layers": 2, "q": 4}, True),
        ({"model": "textcnn", "q": 4}, False),
    ],
)
def test_text_classifiers(options, with_lengths, numerics):
    snn = casc_core.convert(classifier(**options), numerics=numerics)
    inputs = 2 if with_lengths else 1
    compare(snn, *(texts(*sizes)[:inputs] for sizes in ((3, 7), (1, 7), (20, 11))))


class Translator(nn.Module):
    """An encoder whose states, or a map of them, its decoder begins with."""

    def __init__(self, kind, maps):
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(VOCABULARY, 4), nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.decoder, self.fc = kind(4, 5, num_layers=2, batch_first=True), nn.Linear(5, 3)
        self.map, self.is_lstm = nn.Linear(5, 5) if maps else nn.Identity(), kind is nn.LSTM

    def forward(self, source, target):
        h, c = self.encoder(self.embedding(source))[1]
        h = self.map(h)
        return self.fc(self.decoder(self.embedding(target), (h, c) if self.is_lstm else h)[0])


@pytest.mark.parametrize("numerics", [AsTrained(), Exact(8)], ids=str)
@pytest.mark.parametrize(("kind", "maps"), [(nn.RNN, False), (nn.RNN, True), (nn.GRU, False), (nn.LSTM, False)])
def test_a_decoder_begins_with_its_encoders_states(kind, maps, numerics):
    torch.manual_seed(0)
    model = casc_core.prepare(Translator(kind, maps).eval(), q=4).eval()
    batches = [
        (texts(*one)[0], texts(*other, 1)[0]) for one, other in (((3, 6), (3, 4)), ((1, 6), (1, 4)), ((9, 8), (9, 3)))
    ]
    compare(casc_core.convert(model, numerics=numerics), *batches)


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_every_test_sample_of_a_trained_network(cell):
    sentences, topics = sample.generate(500)
    vocabulary = {}
    rows = [[vocabulary.setdefault(word, len(vocabulary) + 1) for word in sentence.split()] for sentence in sentences]
    lengths, labels = torch.tensor([len(row) for row in rows]), torch.tensor(topics)
    tokens = torch.stack([torch.tensor(row + [0] * (int(lengths.max()) - len(row))) for row in rows])
    torch.manual_seed(0)
    config = ClassifierConfig(len(vocabulary) + 1, 4, embedding_size=16, hidden_size=16, cell=cell, pooling="mean+max")
    model = TextClassifier(config)
    training, tested = slice(0, 350), slice(350, None)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(4):
        for batch in torch.randperm(training.stop).split(35):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens[batch], lengths[batch]), labels[batch]).backward()
            optimizer.step()
    given = tokens[tested], lengths[tested]
    snn = casc_core.convert(model.eval())
    accuracy = (snn.reference(*given).argmax(1) == labels[tested]).float().mean()
    assert accuracy > 0.35  # of four topics
    compare(snn, (tokens[:2], lengths[:2]), given)


class Begun(nn.Module):
    """A recurrence over real-valued sequences that begins with a state."""

    def __init__(self, cell, batch_first):
        super().__init__()
        torch.manual_seed(1)
        self.rnn = cell(4, 5, batch_first=batch_first, bidirectional=True, q=4)
        self.fc = nn.Linear(10, 3)

    def forward(self, x, hx, lengths=None):
        output, h = self.rnn(x, (hx, hx) if isinstance(self.rnn, LSTM) else hx, lengths)
        h = h[0] if isinstance(self.rnn, LSTM) else h
        return self.fc(torch.cat([h[-2], h[-1]], 1)) + self.fc(output.sum(1 if self.rnn.batch_first else 0))


@pytest.mark.parametrize("cell", [RNN, GRU, LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_initial_states_and_positions_first(cell, batch_first):
    def batch(samples, length):
        x = torch.randn(samples, length, 4)
        lengths = torch.randint(1, length + 1, (samples,))
        lengths[0] = length
        return x if batch_first else x.transpose(0, 1).contiguous(), torch.randn(2, samples, 5), lengths

    for numerics in (AsTrained(), Exact(8)):
        snn = casc_core.convert(Begun(cell, batch_first).eval(), numerics=numerics)
        compare(snn, batch(3, 6), batch(8, 6))


def test_the_length_of_texts_varies(tmp_path):
    written = casc_core.convert(classifier(q=2)).export_onnx(tmp_path / "model.onnx", *texts(2, 5))
    assert written.inputs == {"tokens": ("batch", "tokens_1"), "lengths": ("batch",)}
    assert written.outputs == {"logits": ("batch", 3)}


def test_texts_that_the_reference_refuses_give_no_answer():
    snn = casc_core.convert(classifier(q=2))
    running, (tokens, lengths) = opened(snn, *texts(2, 5)), texts(4, 6)
    for wrong in ({"tokens": tokens.clone().fill_(-1)}, {"lengths": lengths * 0}, {"lengths": lengths + 6}):
        found = answers(running, {"tokens": tokens, "lengths": lengths} | wrong)["logits"]
        assert np.isnan(found).all()
        with pytest.raises(casc_core.InputError):
            snn.reference(*({"tokens": tokens, "lengths": lengths} | wrong).values())
