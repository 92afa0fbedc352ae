"""The networks and the batches that the benchmark times."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import casc_core
from casc_lab.evaluation.accuracy import Batch, accuracy, logits_of
from casc_seq.classifier import ClassifierConfig, TextClassifier
from casc_seq.experiment import TextPipeline, TrainedClassifier, train_or_find
from casc_seq.layers.rnn import RNN
from casc_seq.text.batches import bucketed_batches
from casc_seq.text.data import Corpus, Examples, load_corpus
from casc_seq.text.tokenizer import PAD
from casc_seq.training import recommended

Texts = tuple[Tensor, Tensor]  # tokens [B, L], lengths [B]
CLASSES = 10


@dataclass(frozen=True)
class Scale:
    """How large everything is; the defaults are the paper's shape for AG News."""

    repeats: int = 7
    threads: tuple[int, ...] = (1, 2)
    embedding: int = 300
    hidden: int = 300
    length: int = 40
    batch: int = 256
    steps: tuple[int, ...] = (8, 16, 32, 64)
    training_texts: int = 20_000
    epochs: int = 3
    mlp_width: int = 512
    mlp_layers: int = 4
    mlp_q: int = 8
    mlp_training_steps: int = 150
    peer_steps: int = 32
    image_size: int = 32
    image_batch: int = 32
    image_q: int = 8
    image_steps: tuple[int, ...] = (8, 32, 64)
    channels: tuple[int, int, int] = (64, 64, 128)
    training_images: int | None = None
    image_epochs: int = 6
    compared_images: int = 256
    growth_batch: int = 64
    growth: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "T": (1, 2, 4, 8, 16, 32, 64),
            "q": (1, 2, 4, 8, 16),
            "hidden": (64, 150, 300, 600, 1024),
            "length": (10, 20, 40, 80),
            "batch": (1, 16, 64, 256, 1024),
        }
    )
    memory_q: tuple[int, ...] = (2, 8)
    memory_batches: tuple[int, ...] = (256, 4096, 7600)
    memory_steps: tuple[int, ...] = (8, 64)
    memory_images: int = 64
    vgg_width: int = 64
    resnet_width: int = 16
    relu_epochs: int = 3
    relu_images: int = 1500
    calibration_images: int = 256
    detector_width: float = 0.125
    detector_size: tuple[int, int] = (192, 256)
    detector_batch: int = 4
    startup_repeats: int = 5


QUICK = Scale(
    repeats=2, embedding=24, hidden=24, length=12, batch=16, training_texts=400, epochs=1, mlp_width=32,
    mlp_training_steps=20, growth_batch=8, memory_q=(2,), memory_batches=(64,), memory_steps=(), startup_repeats=1,
    image_batch=4, image_steps=(2, 9), channels=(4, 4, 8), training_images=128, image_epochs=1, compared_images=8,
    memory_images=2, vgg_width=8, resnet_width=4, relu_epochs=1, calibration_images=16, detector_width=0.0625,
    detector_size=(32, 32), detector_batch=2,
    growth={"T": (1, 4), "q": (1, 4), "hidden": (16, 32), "length": (4, 8), "batch": (1, 8)},
)  # fmt: skip


class Classifiers:
    """Trained text classifiers by their number of levels, each trained (or found) when it is first asked for.

    Trained, because how densely a network spikes decides how long it takes, and a random one spikes otherwise.

    Args:
        data: as `casc_seq.text.data.load_corpus` takes it.
        folder: holds a subfolder `q2`, `q8`, ... for each; what was trained before is found there.
        scale: sizes.
    """

    def __init__(self, data: str | None, folder: Path, scale: Scale) -> None:
        corpus = load_corpus(data or "sample")
        count = scale.training_texts
        train = Examples(corpus.train.texts[:count], corpus.train.labels[:count])
        self.corpus: Corpus = dataclasses.replace(corpus, train=train)
        self.folder, self.scale = folder, scale
        self.pipeline = TextPipeline(max_words=20_000, max_len=scale.length)
        self._trained: dict[int, TrainedClassifier] = {}
        self._encoded: list[list[int]] = []

    def trained(self, q: int) -> TrainedClassifier:
        """The classifier with `q` levels: embedding, one recurrent layer in one direction, mean, linear."""
        if q not in self._trained:
            sizes: dict[str, Any] = {
                "embedding_size": self.scale.embedding, "hidden_size": self.scale.hidden, "bidirectional": False,
                "pooling": "mean", "batch_norm": False, "q": q,
            }  # fmt: skip
            how = dataclasses.replace(recommended(len(self.corpus.train)), epochs=self.scale.epochs)
            self._trained[q] = train_or_find(
                self.corpus, self.folder / f"q{q}", self.pipeline, sizes, how, progress=False
            )
        return self._trained[q]

    def accuracy(self, network: Callable[..., Tensor]) -> float:
        """Percent of the test texts that a network gets right."""
        batches = bucketed_batches(self.encoded(), self.corpus.test.labels, 256)
        logits, labels = logits_of(
            network, lambda share: (Batch((b.tokens, b.lengths), b.labels, b.index) for b in batches.shared(share))
        )
        return accuracy(logits, labels)

    def encoded(self) -> list[list[int]]:
        """Word numbers of the test texts. All classifiers read alike: their tokenizers saw the same texts."""
        if not self._encoded:
            any_of_them = next(iter(self._trained.values()), None) or self.trained(2)
            self._encoded = any_of_them.tokenizer.encode(self.corpus.test.texts, self.scale.length)
        return self._encoded

    def full(self, count: int) -> Texts:
        """`count` test texts of exactly `scale.length` tokens: texts that are shorter are joined with the next ones."""
        length, rows = self.scale.length, []
        row: list[int] = []
        for text in itertools.cycle(self.encoded()):
            row += text
            if len(row) >= length:
                rows.append(row[:length])
                row = []
            if len(rows) == count:
                break
        return torch.tensor(rows), torch.full((count,), length)

    def natural(self, count: int) -> Texts:
        """`count` test texts as long as they are, up to `scale.length` tokens, padded to the longest."""
        return padded(list(itertools.islice(itertools.cycle(self.encoded()), count)))


def padded(texts: Sequence[Sequence[int]]) -> Texts:
    """Tokens and lengths of one batch."""
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.full((len(texts), int(lengths.max())), PAD)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    return tokens, lengths


class PlainLoop:
    """The same classifier in float32 as a plain loop of `addmm`, `floor` and `clamp`: the fastest that one would write.

    It keeps no states: of an inference with mean pooling it is all that there is to compute. All texts are of full length.
    """

    def __init__(self, model: TextClassifier) -> None:
        rnn = model.rnn
        assert isinstance(rnn, RNN)
        assert model.config.pooling == "mean"
        self.q, self.embedding, self.fc = rnn.q, model.embedding, model.fc
        weight_ih, weight_hh, bias = rnn.cell_parameters("l0")
        scale = rnn.q / rnn.threshold
        self.weight_ih, self.weight_hh = (weight_ih * scale).t().contiguous(), weight_hh.t().contiguous()
        self.bias = torch.zeros(rnn.hidden_size) if bias is None else bias * scale
        self.unit = rnn.threshold / rnn.q

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        vectors = self.embedding(tokens.t())
        drive = torch.addmm(self.bias, vectors.flatten(0, 1), self.weight_ih).unflatten(0, vectors.shape[:2])
        levels = drive[0].floor_().clamp_(0, self.q)
        total = levels.clone()
        for position in range(1, len(drive)):
            levels = torch.addmm(drive[position], levels, self.weight_hh).floor_().clamp_(0, self.q)
            total += levels
        logits: Tensor = self.fc(total / (lengths.unsqueeze(1) / self.unit))
        return logits


class TorchRNN(nn.Module):
    """The same classifier with `torch.nn.RNN` in place of the CQReLU recurrence: what the sizes cost in plain PyTorch."""

    def __init__(self, config: ClassifierConfig, nonlinearity: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size, padding_idx=PAD)
        self.rnn = nn.RNN(config.embedding_size, config.hidden_size, nonlinearity=nonlinearity, batch_first=True)
        self.fc = nn.Linear(config.hidden_size, config.classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        vectors = self.embedding(tokens)
        if int(lengths.min()) == tokens.shape[1]:
            states, _ = self.rnn(vectors)
        else:
            packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
            states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        logits: Tensor = self.fc(states.sum(1) / lengths.unsqueeze(1))
        return logits


def random_classifier(scale: Scale, q: int, hidden: int) -> TextClassifier:
    """A classifier that has not been trained, for curves over sizes."""
    torch.manual_seed(0)
    config = ClassifierConfig(
        vocabulary_size=1000, classes=4, embedding_size=scale.embedding, hidden_size=hidden, bidirectional=False,
        pooling="mean", batch_norm=False, q=q,
    )  # fmt: skip
    return TextClassifier(config).eval()


def random_texts(batch: int, length: int) -> Texts:
    """Seeded random tokens for `random_classifier`, every text of full length."""
    tokens = torch.randint(2, 1000, (batch, length), generator=torch.Generator().manual_seed(1))
    return tokens, torch.full((batch,), length)


def random_mlp(scale: Scale) -> tuple[nn.Sequential, Tensor]:
    """A multilayer perceptron with He's random weights, and a batch of normal inputs."""
    torch.manual_seed(0)
    width = scale.mlp_width
    layers: list[nn.Module] = []
    for _ in range(scale.mlp_layers):
        layers += [nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, CLASSES))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    prepared = casc_core.prepare(model, adapter="rnn", q=scale.mlp_q)
    assert isinstance(prepared, nn.Sequential)
    return prepared.eval(), torch.randn(scale.batch, width)


def trained_mlp(scale: Scale) -> tuple[nn.Sequential, Tensor, float]:
    """The same perceptron trained for a few seconds to tell ten clouds of points apart; a new batch; its accuracy."""
    model, _ = random_mlp(scale)
    centres = torch.randn(CLASSES, scale.mlp_width) * 0.2

    def draw() -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, CLASSES, (scale.batch,))
        return centres[labels] + torch.randn(scale.batch, scale.mlp_width), labels

    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(scale.mlp_training_steps):
        x, labels = draw()
        optimiser.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimiser.step()
    x, labels = draw()
    with torch.no_grad():
        return model.eval(), x, accuracy(model(x), labels)
