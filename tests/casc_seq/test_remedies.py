"""Refusals of text classifiers, and what they say to do: followed, it converts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_core.errors import CascError, ConversionError, InputError

TOKENS = torch.randint(1, 30, (4, 9), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([9, 4, 1, 7])


class Texts(nn.Module):
    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.rnn, self.fc = nn.Embedding(30, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)
        for name, layer in layers.items():
            setattr(self, name, layer)
        type(self).forward = forward  # type: ignore[method-assign]


def converted(forward: Callable[..., Tensor], *inputs: Tensor, **layers: nn.Module) -> None:
    """It converts, runs and is exact.

    Raises:
        CascError: it does not.
    """
    model = type("Own", (Texts,), {})(forward, **layers).eval()
    snn = casc_core.convert(casc_core.prepare(model, "rnn", q=4).eval(), "rnn")
    report = casc_core.verify(snn, *inputs)
    assert report.exact, str(report)


def encoder(self: Any, x: Tensor) -> Tensor:
    x = self.embedding(x)
    return self.fc(self.decoder(x, self.rnn(x)[1])[0][:, -1])


def through_a_map(self: Any, x: Tensor) -> Tensor:
    x = self.embedding(x)
    return self.fc(self.decoder(x, self.projection(self.rnn(x)[1]))[0][:, -1])


def through_a_map_and_hardtanh(self: Any, x: Tensor) -> Tensor:
    x = self.embedding(x)
    return self.fc(self.decoder(x, self.clip(self.projection(self.rnn(x)[1])))[0][:, -1])


def mean_of_states(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    x = self.embedding(x)
    return self.fc(self.decoder(x, (self.rnn(x)[0].sum(1) / lengths[:, None])[None])[0][:, -1])


def rounded_mean_of_states(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    x = self.embedding(x)
    return self.fc(self.decoder(x, self.clip(self.rnn(x)[0].sum(1) / lengths[:, None])[None])[0][:, -1])


def last(self: Any, x: Tensor) -> Tensor:
    return self.fc(self.rnn(self.embedding(x))[0][:, -1])


def through_a_linear(self: Any, x: Tensor) -> Tensor:
    return self.fc(self.projection(self.rnn(self.embedding(x))[0][:, -1]))


def mean(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    mask = (torch.arange(x.shape[1]) < lengths.unsqueeze(1)).unsqueeze(-1)
    return self.fc((self.rnn(self.embedding(x))[0] * mask).sum(1) / lengths.unsqueeze(1))


def clamped_mean(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    mask = (torch.arange(x.shape[1]) < lengths.unsqueeze(1)).unsqueeze(-1)
    return self.fc((self.rnn(self.embedding(x))[0] * mask).sum(1) / lengths.clamp(min=1).unsqueeze(1))


def of_lengths(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    return self.fc(self.rnn(self.embedding(x), lengths=lengths)[0].sum(1))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_an_encoders_state_is_another_layers_initial_state(kind: type[nn.Module]) -> None:
    converted(encoder, TOKENS, decoder=kind(6, 5, batch_first=True))


def test_a_gates_initial_state_is_rounded_to_levels_before_it() -> None:
    layers = {"decoder": nn.GRU(6, 5, batch_first=True), "projection": nn.Linear(5, 5)}
    with pytest.raises(ConversionError, match=r"module 'decoder': GRU .*worth a level, 1/4, each.*nn\.Hardtanh\(\)"):
        converted(through_a_map, TOKENS, **layers)
    converted(through_a_map_and_hardtanh, TOKENS, **layers, clip=nn.Hardtanh())
    converted(
        through_a_map, TOKENS, **(layers | {"decoder": nn.RNN(6, 5, batch_first=True)})
    )  # a current like any other


def test_an_initial_state_that_is_a_mean_passes_an_activation() -> None:
    decoder = nn.RNN(6, 5, batch_first=True)
    with pytest.raises(ConversionError, match=r"initial state is a mean over spikes.*nn\.Hardtanh\(\) or nn\.Tanh\(\)"):
        converted(mean_of_states, TOKENS, LENGTHS, decoder=decoder)
    converted(rounded_mean_of_states, TOKENS, LENGTHS, decoder=decoder, clip=nn.Hardtanh())


def test_a_projection_is_a_linear_layer() -> None:
    with pytest.raises(ConversionError, match=r"module 'rnn': an LSTM with proj_size=3 .*nn\.Linear\(5, 3\) behind it"):
        converted(last, TOKENS, rnn=nn.LSTM(6, 5, batch_first=True, proj_size=3), fc=nn.Linear(3, 3))
    converted(through_a_linear, TOKENS, projection=nn.Linear(5, 3), fc=nn.Linear(3, 3))


def test_one_sequence_is_a_batch_of_one() -> None:
    with pytest.raises(InputError, match=r"rnn: expected a non-empty batch.*x\.unsqueeze\(0\)"):
        converted(last, TOKENS[0])
    converted(last, TOKENS[0].unsqueeze(0))


@pytest.mark.parametrize("change", [lambda lengths: lengths, lambda lengths: lengths.float()])
def test_lengths_may_be_whole_numbers_of_any_type(change: Callable[[Tensor], Tensor]) -> None:
    converted(mean, TOKENS, change(LENGTHS))
    converted(of_lengths, TOKENS, change(LENGTHS), rnn=casc_seq.RNN(6, 5, batch_first=True))


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        (LENGTHS + 0.5, r"lengths must be whole numbers; got \[9\.5"),
        (LENGTHS * 0, "sample 0 has length 0: leave empty texts out"),
        (LENGTHS + 5, "sample 0 has length 14: cut it off there"),
    ],
)
def test_lengths_that_are_none_are_refused(lengths: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        converted(of_lengths, TOKENS, lengths, rnn=casc_seq.RNN(6, 5, batch_first=True))


def test_the_mean_of_an_empty_text_is_clamped() -> None:
    lengths = LENGTHS * torch.tensor([1, 0, 1, 1])
    with pytest.raises(CascError, match=r"divided by 0; .*lengths\.clamp\(min=1\)"):
        converted(mean, TOKENS, lengths)
    converted(clamped_mean, TOKENS, lengths)
