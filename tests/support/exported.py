"""Networks of every kind that an export must replay, each with samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_core import CIF, IF, Continuous, CQReLU, SpikingModel
from casc_seq.classifier import ClassifierConfig, TextClassifier

TOKENS = torch.tensor([[3, 7, 2, 9, 4], [5, 1, 8, 0, 0], [6, 0, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 1])


class Case(NamedTuple):
    """A trained network, what it is converted with, samples, and the steps that it runs (None: until silent)."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    options: dict[str, Any] = {}  # noqa: RUF012  # of a tuple
    T: int | None = None


CASES: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    """Decorator: a case under its function's name."""
    CASES[make.__name__] = make
    return make


def converted(name: str, numerics: casc_core.AsTrained | casc_core.Exact) -> tuple[SpikingModel, Case]:
    """The network of a case, its weights from a fixed seed."""
    torch.manual_seed(0)
    made = CASES[name]()
    return casc_core.convert(made.model.eval(), numerics=numerics, **made.options), made


def perceptron(**levels: Any) -> nn.Module:
    """Two populations and a readout."""
    given = {"q": 4} | levels
    return nn.Sequential(nn.Linear(6, 8), CQReLU(**given), nn.Linear(8, 7), CQReLU(**given), nn.Linear(7, 3))


class Residual(nn.Module):
    """Blocks with an identity and with a strided shortcut, batch normalisation and groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(2, 4, 3, padding=1), CQReLU(4)
        self.conv, self.norm, self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), CQReLU(4)
        self.down, self.short = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Conv2d(4, 6, 1, stride=2)
        self.third, self.fc = CQReLU(4, threshold=0.7), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        x = self.second(self.norm(self.conv(x)) + x)
        x = self.third(self.down(x) + self.short(x))
        return self.fc(x.mean((2, 3)))


class Outputs(nn.Module):
    """A product of two populations; three outputs, one of which the inputs alone decide."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.mixed = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 5)
        self.first, self.second, self.third, self.fc = CQReLU(4), CQReLU(4), CQReLU(4), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        values, gates = self.first(self.value(x)), self.second(self.gate(x))
        return {"logits": self.fc(self.third(self.mixed(values * gates))), "parts": (values, 2 * x[:, :2])}


class Attention(nn.Module):
    """Matrix products without a softmax, the second one over the length.

    Args:
        of_currents: what is multiplied does not spike before; as trained, such products are rounded.
    """

    def __init__(self, of_currents: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o, self.fc = (nn.Linear(4, 4) for _ in range(5))
        self.scores, self.hidden = CQReLU(4), CQReLU(4)
        self.acts = nn.ModuleList(nn.Identity() if of_currents else CQReLU(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (act(layer(x)) for act, layer in zip(self.acts, (self.q, self.k, self.v), strict=True))
        mixed = self.scores(q @ k.transpose(1, 2) * 0.5) @ v / x.shape[1]
        return self.fc(self.hidden(self.o(mixed)).sum(1))


class Bilinear(nn.Module):
    """A product of a population with itself, which is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(2, 3, 2), CQReLU(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        return torch.einsum("bchw,bdhw->bcd", x, x)


class Tables(nn.Module):
    """Functions of levels, which are tables, one of them of levels that may be negative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(6, 8), nn.Hardtanh(-1.0, 2.5), nn.Linear(8, 7)
        self.relu, self.fc = nn.ReLU(), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.second(nn.functional.gelu(self.act(self.first(x))))).exp())


def classifier(cell: str, **options: Any) -> nn.Module:
    """A bidirectional text classifier that reads tokens and lengths."""
    given = {"pooling": "mean+max", "q": 4} | options
    return TextClassifier(ClassifierConfig(11, 3, embedding_size=4, hidden_size=3, cell=cell, **given))


@case
def mlp() -> Case:
    return Case(perceptron(), (torch.randn(3, 6),))


@case
def max_pool_cnn() -> Case:
    layers = (
        nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(2), CQReLU(4), nn.Conv2d(4, 5, 3, stride=2), CQReLU(4),
        nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    return Case(nn.Sequential(*layers), (torch.randn(2, 2, 12, 12),))


@case
def residual() -> Case:
    return Case(Residual(), (torch.randn(2, 2, 6, 6),))


@case
def unequal_average_pools() -> Case:
    layers = (
        nn.Conv2d(2, 3, 3, padding=1), CQReLU(4), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.Conv2d(3, 4, 1), CQReLU(4), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip
    return Case(nn.Sequential(*layers), (torch.randn(2, 2, 8, 8),))


@case
def maps_in_a_row() -> Case:
    layers = (
        nn.Conv1d(2, 4, 3, padding=1), CQReLU(4), nn.Conv1d(4, 4, 3, padding=1), nn.AvgPool1d(2), nn.Conv1d(4, 3, 1),
        CQReLU(4), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 3),
    )  # fmt: skip
    return Case(nn.Sequential(*layers), (torch.randn(2, 2, 8),))


@case
def transposed_and_interpolated() -> Case:
    layers = (
        nn.Conv1d(2, 3, 3, padding=1), CQReLU(4), nn.ConvTranspose1d(3, 3, 4, stride=2, padding=1), CQReLU(4),
        nn.Upsample(scale_factor=2, mode="linear"), nn.Conv1d(3, 2, 1), CQReLU(4), nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip
    return Case(nn.Sequential(*layers), (torch.randn(2, 2, 6),))


@case
def half_step() -> Case:
    return Case(perceptron(half_step=True), (torch.randn(3, 6),))


@case
def thresholds_per_channel() -> Case:
    layers = (
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    calibration = casc_core.calibrate(nn.Sequential(*layers), [torch.randn(8, 2, 10, 10)], q=4, steps=())
    return Case(calibration.model, (torch.randn(2, 2, 10, 10),))


@case
def sigmoid_and_tanh() -> Case:
    layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Sigmoid(), nn.Linear(7, 3))
    return Case(casc_core.prepare(layers, q=4), (torch.randn(3, 6),))


@case
def two_outputs() -> Case:
    return Case(Outputs(), (torch.randn(3, 6),))


@case
def attention_without_a_softmax() -> Case:
    return Case(Attention(), (torch.randn(2, 3, 4),))


@case
def bilinear_pooling() -> Case:
    return Case(Bilinear(), (torch.randn(2, 2, 4, 4),))


@case
def tables_by_level() -> Case:
    return Case(casc_core.prepare(Tables(), q=4), (torch.randn(3, 6),))


@case
def if_with_continuous_input() -> Case:
    options = {"neuron": IF(initial_potential=0.5), "schedule": Continuous()}
    return Case(perceptron(), (torch.randn(3, 6),), options, T=9)


@case
def cycles_of_wake_and_sleep() -> Case:
    return Case(perceptron(), (torch.randn(3, 6),), {"neuron": CIF(), "schedule": casc_core.WakeSleep(2, 3, 2)})


@case
def bidirectional_rnn() -> Case:
    return Case(classifier("rnn"), (TOKENS, LENGTHS))


@case
def two_rnn_layers() -> Case:
    return Case(classifier("rnn", num_layers=2, pooling="last"), (TOKENS, LENGTHS))


@case
def gru() -> Case:
    return Case(classifier("gru"), (TOKENS, LENGTHS))


class Translator(nn.Module):
    """A bidirectional encoder whose states are joined and rounded, and a decoder that begins with them."""

    def __init__(self, kind: type[nn.Module], rounds: bool) -> None:
        super().__init__()
        self.embedding, self.encoder = (
            nn.Embedding(11, 4),
            casc_seq.GRU(4, 3, bidirectional=True, batch_first=True, q=4),
        )
        self.decoder, self.joined, self.fc = kind(4, 3, batch_first=True, q=4), nn.Linear(6, 3), nn.Linear(3, 5)
        self.tanh = casc_core.Rounded(4, "tanh") if rounds else nn.Identity()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        read = self.embedding(tokens)
        h = self.encoder(read, lengths=lengths)[1]
        h = self.tanh(self.joined(torch.cat([h[0], h[1]], 1))).unsqueeze(0)
        return self.fc(self.decoder(read, (h, h) if isinstance(self.decoder, casc_seq.LSTM) else h, lengths=lengths)[0])


@case
def rnn_that_begins_with_a_map() -> Case:
    return Case(Translator(casc_seq.RNN, rounds=False), (TOKENS, LENGTHS))


@case
def gru_that_begins_with_spikes() -> Case:
    return Case(Translator(casc_seq.GRU, rounds=True), (TOKENS, LENGTHS))


@case
def lstm_that_begins_with_spikes() -> Case:
    return Case(Translator(casc_seq.LSTM, rounds=True), (TOKENS, LENGTHS))


@case
def lstm() -> Case:
    return Case(classifier("lstm", bidirectional=False), (TOKENS, LENGTHS))
