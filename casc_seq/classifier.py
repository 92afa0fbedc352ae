"""The text classifier that the recipes train and convert: embedding -> recurrent layers or convolutions -> pool -> FC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.activation import CQReLU, check_levels, check_threshold
from casc_core.errors import ConfigError, InputError
from casc_seq.layers.gru import GRU
from casc_seq.layers.lstm import LSTM
from casc_seq.layers.recurrent import RecurrentLayers
from casc_seq.layers.rnn import RNN
from casc_seq.text.tokenizer import PAD

MODELS = ("rnn", "textcnn")
CELLS = ("rnn", "gru", "lstm")
# Words that the filters of a convolutional classifier see.
WIDTHS = (3, 5, 7)
POOLINGS = ("mean", "sum", "max", "last", "mean+max")

_EMBEDDING_SCALE = 0.1
_MOST_LAYERS = 1_000


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of a `TextClassifier`.

    Args:
        vocabulary_size: token ids are `0 .. vocabulary_size - 1`; 0 is padding, 1 the unknown word.
        classes: number of classes.
        embedding_size: width of a word vector.
        model: what reads a text: "rnn", recurrent layers, or "textcnn", convolutions of several widths with a maximum over
            the text each (Kim 2014, "Convolutional neural networks for sentence classification").
        cell: of the recurrent layers: "rnn" (CQReLU), "gru" or "lstm".
        hidden_size: units of the recurrent layer in each direction; of a convolutional model, filters of each width.
        num_layers: recurrent layers.
        bidirectional: read each text in both directions.
        pooling: how the states of a text become one vector: "mean", "sum", "max", "last" (the final state of each
            direction), or "mean+max" (both, side by side). Of recurrent layers; convolutions have the maximum.
        batch_norm: standardise the pooled vector over each training batch (Ioffe and Szegedy 2015). States of CQReLU are
            never below 0, so what tells texts apart is a small part of it. Converts as it is.
        fc_size: units of a hidden layer with CQReLU before the last layer; 0 for none.
        q, threshold: levels of every activation, and the largest value of every CQReLU.
        embedding_dropout: dropout of the input of the recurrence.
        dropout: dropout between recurrent layers, and of what the linear layers read.

    Raises:
        ConfigError: a value out of its range.

    >>> ClassifierConfig(vocabulary_size=1000, classes=4, pooling="max").hidden_size
    128
    """

    vocabulary_size: int
    classes: int
    embedding_size: int = 200
    hidden_size: int = 128
    num_layers: int = 1
    bidirectional: bool = True
    pooling: str = "mean+max"
    batch_norm: bool = True
    fc_size: int = 0
    q: int = 2
    threshold: float = 1.0
    embedding_dropout: float = 0.0
    dropout: float = 0.5
    model: str = "rnn"
    cell: str = "rnn"

    def __post_init__(self) -> None:
        least = {"vocabulary_size": 2, "classes": 2, "embedding_size": 1, "hidden_size": 1, "num_layers": 1}
        for name, smallest in (least | {"fc_size": 0}).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ConfigError(f"{name} must be an integer of at least {smallest}; got {value!r}")
        if self.num_layers > _MOST_LAYERS:
            raise ConfigError(f"num_layers must be at most {_MOST_LAYERS}; got {self.num_layers}")
        for name, known in (("pooling", POOLINGS), ("model", MODELS), ("cell", CELLS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        for name in ("bidirectional", "batch_norm"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False; got {getattr(self, name)!r}")
        for name in ("embedding_dropout", "dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be a probability in [0, 1); got {getattr(self, name)!r}")
        check_levels(self.q)
        check_threshold(self.threshold)


class TextClassifier(nn.Module):
    """Classifies texts given as token ids: embedding -> recurrent layers or convolutions -> pooling -> linear.

    Args:
        config: the sizes.
        vectors: initial word vectors `[vocabulary_size, embedding_size]` in place of random ones: of the training texts
            themselves (`casc_seq.text.vectors.corpus_vectors`) or GloVe, say. They are brought to one scale.

    Shape of the call `classifier(tokens, lengths=None)`:
        tokens `[B, L]` int64, padded at the end with 0; lengths `[B]`, how many tokens of each text are real (counted,
        if None); the result `[B, classes]`. Padding does not influence it.

    Raises:
        InputError: `vectors` of the wrong shape.

    >>> model = TextClassifier(ClassifierConfig(vocabulary_size=50, classes=4)).eval()
    >>> tokens = torch.tensor([[5, 9, 2, 7], [3, 4, 0, 0]])
    >>> model(tokens).shape
    torch.Size([2, 4])
    >>> bool(torch.allclose(model(tokens)[1], model(tokens[1:, :2])[0], atol=1e-6))
    True
    """

    def __init__(self, config: ClassifierConfig, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size, padding_idx=PAD)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        if config.model == "textcnn":
            self.cnn = TextConvolutions(config.embedding_size, config.hidden_size, config.q, config.threshold)
            width = config.hidden_size * len(WIDTHS)
        else:
            self.rnn = _recurrent(config)
            width = config.hidden_size * self.rnn.directions * (1 + config.pooling.count("+"))
        self.dropout = nn.Dropout(config.dropout)
        if config.batch_norm:
            # Batches hold texts of like length, so the statistics of a few of them are not those of all.
            self.norm = Standardise(width, momentum=0.05, affine=False)
        if config.fc_size:
            self.hidden = nn.Linear(width, config.fc_size)
            self.activation = CQReLU(config.q, config.threshold)
        self.fc = nn.Linear(config.fc_size or width, config.classes)
        self.reset_parameters()
        if vectors is not None:
            self._set_vectors(vectors)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            lengths = (tokens != PAD).sum(1)
        pooled = self._read(self.embedding_dropout(self.embedding(tokens)), lengths)
        if self.config.batch_norm:
            pooled = self.norm(pooled)
        pooled = self.dropout(pooled)
        if self.config.fc_size:
            pooled = self.dropout(self.activation(self.hidden(pooled)))
        logits: Tensor = self.fc(pooled)
        return logits

    def _read(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """One vector for each text."""
        if self.config.model == "textcnn":
            read: Tensor = self.cnn(embedded, lengths)
            return read
        states, final = self.rnn(embedded, lengths=lengths)
        return self._pool(states, final[0] if self.config.cell == "lstm" else final, lengths)

    def _pool(self, states: Tensor, final: Tensor, lengths: Tensor) -> Tensor:
        """One vector for each text. States past the end of a text are 0, and those of CQReLU are never below."""
        parts = []
        for pooling in self.config.pooling.split("+"):
            if pooling == "mean":
                parts.append(states.sum(1) / lengths.unsqueeze(1))
            elif pooling == "sum":
                parts.append(states.sum(1))
            elif pooling == "max":
                read = states if self.config.cell == "rnn" else states.masked_fill(_behind(states, lengths), -math.inf)
                parts.append(read.amax(1))
            else:
                parts += [final[-direction] for direction in range(self.rnn.directions, 0, -1)]
        return torch.cat(parts, dim=1)

    def reset_parameters(self) -> None:
        """Draw all parameters so that most units begin inside the range of their activation, where the gradient passes.

        The currents of the first layer begin near 0.3 +- 1 thresholds of CQReLU, or 0 +- 1 of gates. `torch.nn.RNN`'s own
        start leaves them within a fraction of the first level, where nearly every unit is silent and training takes several
        times as long.
        """
        with torch.no_grad():
            self.embedding.weight.normal_(0, _EMBEDDING_SCALE)
            self.embedding.weight[PAD] = 0
            is_gated = self.config.model == "rnn" and self.config.cell != "rnn"
            threshold = 1.0 if is_gated else self.config.threshold
            reader: nn.Module = self.cnn if self.config.model == "textcnn" else self.rnn
            for name, parameter in reader.named_parameters():
                inputs = parameter[0].numel()
                if name.startswith("weight_ih_l0") or name.endswith(".weight"):
                    parameter.normal_(0, threshold / _EMBEDDING_SCALE / math.sqrt(inputs))
                elif name.startswith("weight_ih"):
                    parameter.normal_(0, 1 / math.sqrt(inputs))
                elif name.startswith("weight_hh"):
                    parameter.normal_(0, (1.0 if is_gated else 0.3) / math.sqrt(inputs))
                else:
                    parameter.fill_(0.0 if is_gated else 0.15 * threshold)
            for module in self.children():
                if isinstance(module, nn.Linear | nn.BatchNorm1d):
                    module.reset_parameters()

    def _set_vectors(self, vectors: Tensor) -> None:
        expected = tuple(self.embedding.weight.shape)
        if tuple(vectors.shape) != expected:
            raise InputError(f"expected word vectors of shape {list(expected)}; got {list(vectors.shape)}")
        if not vectors.isfinite().all():
            raise InputError("the word vectors hold NaN or infinite values")
        with torch.no_grad():
            # Brought to the scale of random ones, which the weights of the recurrence expect.
            scale = float(vectors[vectors.any(dim=1)].square().mean().sqrt()) if vectors.any() else 1.0
            self.embedding.weight.copy_(vectors * (_EMBEDDING_SCALE / scale))
            self.embedding.weight[PAD] = 0


def _recurrent(config: ClassifierConfig) -> RecurrentLayers:
    options: dict[str, Any] = {
        "input_size": config.embedding_size, "hidden_size": config.hidden_size, "num_layers": config.num_layers,
        "batch_first": True, "dropout": config.dropout, "bidirectional": config.bidirectional, "q": config.q,
    }  # fmt: skip
    if config.cell == "rnn":
        return RNN(**options, threshold=config.threshold)
    return GRU(**options) if config.cell == "gru" else LSTM(**options)


def _behind(states: Tensor, lengths: Tensor) -> Tensor:
    """`[B, L, 1]`: which positions lie behind the end of their text."""
    positions = torch.arange(states.shape[1], device=states.device)
    return (positions >= lengths.to(states.device).unsqueeze(1)).unsqueeze(2)


class TextConvolutions(nn.Module):
    """Convolutions of several widths over a text, CQReLU, and the maximum over the text of each filter.

    Shape of the call `convolutions(embedded, lengths)`: `[B, L, width]` and `[B]`; the result `[B, filters * widths]`. What
    lies behind the end of a text does not influence it, if it is 0.
    """

    def __init__(self, width: int, filters: int, q: int, threshold: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, seen, padding=seen // 2) for seen in WIDTHS)
        self.activations = nn.ModuleList(CQReLU(q, threshold) for _ in WIDTHS)

    def forward(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        read = embedded.transpose(1, 2)
        real = (~_behind(embedded, lengths)).transpose(1, 2)
        layers = zip(self.convolutions, self.activations, strict=True)
        # An activation is never below 0, so one that is masked is no maximum.
        return torch.cat([(activation(convolution(read)) * real).amax(2) for convolution, activation in layers], dim=1)


class Standardise(nn.BatchNorm1d):
    """Batch normalisation that takes a training batch of one text as it takes texts in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(input, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(input)
