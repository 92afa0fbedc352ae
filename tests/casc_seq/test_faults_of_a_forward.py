"""Recurrent layers whose forward is not what they say of themselves: `verify` holds the spikes against the forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_seq.layers import gru, lstm, rnn
from casc_seq.layers import recurrent as layers

TOKENS = torch.randint(1, 50, (9, 12), generator=torch.Generator().manual_seed(0))
KINDS = {"rnn": casc_seq.RNN, "gru": casc_seq.GRU, "lstm": casc_seq.LSTM}


def texts(kind: str, **options: Any) -> nn.Module:
    class Texts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 6)
            self.layers = KINDS[kind](6, 8, batch_first=True, **{"q": 12, **options})
            self.fc = nn.Linear(8 * self.layers.directions, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.fc(self.layers(self.embedding(tokens))[0].mean(1))

    torch.manual_seed(0)
    return Texts().eval()


def halves_up(x: Tensor, q: int | None) -> Tensor:
    return x if q is None else x.add_(0.5).floor_()


def halves_down(x: Tensor, q: int | None) -> Tensor:
    return x if q is None else x.sub_(0.5).ceil_()


def gates_rounded_down(x: Tensor, q: int | None) -> Tensor:
    return x if q is None else (x * q).floor_()


def one_level_short(right: Any) -> Any:
    def wrong(drive: Tensor, start: Tensor, weight: Tensor, order: Any, q: int, from_zero: bool) -> Any:
        return right(drive, start, weight, order, q - 1, from_zero)

    return wrong


def backwards(right: Any) -> Any:
    return lambda sizes, reverse: right(sizes, reverse=False)


FAULTS = {
    "a GRU rounds halves up": ("gru", {}, gru, "nearest", halves_up),
    "a GRU rounds halves down, both ways": ("gru", {"bidirectional": True}, gru, "nearest", halves_down),
    "a GRU rounds gates down": ("gru", {"num_layers": 2}, gru, "to_levels", gates_rounded_down),
    "an LSTM rounds halves up": ("lstm", {}, lstm, "nearest", halves_up),
    "an LSTM rounds gates down": ("lstm", {"num_layers": 2}, lstm, "to_levels", gates_rounded_down),
    "an RNN has a level too few": ("rnn", {}, rnn, "_levels_alone", one_level_short(rnn._levels_alone)),
    "an RNN goes the wrong way": ("rnn", {"bidirectional": True}, layers, "time_order", backwards(layers.time_order)),
}


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
@pytest.mark.parametrize(("kind", "options", "module", "name", "wrong"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_a_forward_is_a_fault(
    monkeypatch: Any, kind: str, options: dict[str, Any], module: Any, name: str, wrong: Any, numerics: Any
) -> None:
    snn = casc_core.convert(texts(kind, **options), "rnn", numerics=numerics)
    report = casc_core.verify(snn, TOKENS)
    assert report.exact, str(report)
    monkeypatch.setattr(module, name, wrong)
    report = casc_core.verify(snn, TOKENS)
    assert report.spikes_exact  # equal to a reference that is not the network
    assert not report.exact
    assert report.lowering is not None
    assert report.lowering.first_fault is not None
    assert report.lowering.first_fault.name.startswith("layers")
    assert "FAULT OF THE LOWERING: 'layers" in str(report)
