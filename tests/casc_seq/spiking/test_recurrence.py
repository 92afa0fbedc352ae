"""How a recurrence hands over its spikes: written down, or where only sums are read, these."""

from __future__ import annotations

import pytest
import torch

from casc_core import convert
from casc_core.engine import kernels
from casc_seq.classifier import ClassifierConfig, TextClassifier


@pytest.mark.parametrize(("pooling", "written"), [("mean", False), ("sum", False), ("max", True), ("mean+max", True)])
def test_a_train_of_which_only_sums_are_read_is_not_written(monkeypatch, pooling, written):
    config = ClassifierConfig(
        vocabulary_size=50, classes=3, embedding_size=8, hidden_size=12, q=4, bidirectional=False, pooling=pooling
    )
    snn = convert(TextClassifier(config).eval(), adapter="rnn")
    tokens, lengths = torch.randint(1, 50, (5, 9)), torch.tensor([9, 1, 4, 9, 2])
    asked = []
    recurrence = kernels.recurrence

    def noted(*args, summed, **named):
        asked.append(summed)
        return recurrence(*args, summed=summed, **named)

    monkeypatch.setattr(kernels, "recurrence", noted)
    logits = snn(tokens, lengths)
    assert asked == ([not written] if kernels.instructions() else [])
    assert torch.equal(logits, snn.simulate(tokens, lengths).logits[-1])
    assert asked[1:] == ([False] if kernels.instructions() else [])
    with kernels.using(None):
        assert torch.equal(snn(tokens, lengths), logits)
