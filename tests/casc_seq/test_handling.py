"""What users do with a converted network that has already run: copy it, pickle it, share it, change it."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import casc_core
from casc_core.engine import kernels
from casc_seq.layers.rnn import RNN


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 30)
        self.rnn = RNN(30, 70, 2, batch_first=True, bidirectional=True, q=4)
        self.fc = nn.Linear(140, 3)

    def forward(self, tokens, lengths):
        return self.fc(self.rnn(self.embedding(tokens), lengths=lengths)[0].sum(1) / lengths.unsqueeze(1))


@pytest.fixture
def case():
    """A network that has run once, a batch, and its answer."""
    torch.manual_seed(0)
    snn = casc_core.convert(Model().eval(), adapter="rnn")
    tokens, lengths = torch.randint(0, 50, (64, 20)), torch.randint(1, 21, (64,))
    lengths[0] = 20
    return snn, tokens, lengths, snn(tokens, lengths)


def test_copies(case):
    snn, tokens, lengths, expected = case
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn)), copy.deepcopy(snn).double()):
        assert torch.equal(other(tokens, lengths), expected)


def test_several_threads_share_it(case):
    snn, tokens, lengths, expected = case
    same = []

    def work():
        for _ in range(5):
            same.append(torch.equal(snn(tokens, lengths), expected))
            same.append(torch.equal(snn.reference(tokens, lengths), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 40


def test_modes_types_and_layouts(case):
    snn, tokens, lengths, expected = case
    with torch.inference_mode():
        assert torch.equal(snn(tokens, lengths), expected)
    with torch.autocast("cpu"):
        assert torch.equal(snn(tokens, lengths), expected)
    assert torch.equal(snn(tokens.int(), lengths.int()), expected)
    assert torch.equal(snn(tokens.T.contiguous().T, lengths), expected)
    assert torch.equal(snn(tokens.repeat(1, 2)[:, :20], lengths), expected)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(snn(tokens, lengths), expected)
    finally:
        torch.set_default_dtype(before)


def test_weights_changed_in_place_are_noticed(case):
    snn, tokens, lengths, _ = case
    edited = copy.deepcopy(snn)
    with torch.no_grad():
        next(op for op in edited.operations() if op.is_layer).weight[0, 0] += 0.5
    with pytest.raises(casc_core.ConfigError, match=r"Recurrence 'rnn.l0' .*: 'weight' has been edited"):
        edited(tokens, lengths)


def test_a_description_names_the_kernels(case):
    assert "kernels=" in repr(case[0])


def test_the_default_device_does_not_matter():
    """Memory that a kernel fills is on the CPU whatever torch would choose."""

    with torch.device("meta"):
        counts = kernels.levels(torch.tensor([0.9, 2.0], device="cpu"), None, 0.5, 3)
        found = kernels.tally(counts.reshape(1, 2))
    assert counts.tolist() == [1, 3]
    assert found[0].tolist() == [2]


def test_threads_leave_the_precision_of_products_as_it_was(case):
    snn, tokens, lengths, _ = case
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        threads = [threading.Thread(target=lambda: [snn(tokens, lengths) for _ in range(10)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_more_levels_than_counts_can_hold_are_refused():
    model = nn.Sequential(nn.Linear(2, 3), casc_core.CQReLU(q=40_000), nn.Linear(3, 2))
    with pytest.raises(casc_core.ConfigError, match="40,000 times"):
        casc_core.convert(model, adapter="rnn")
