"""A text classification experiment: data to tokens, a trained classifier found or made, its test set as batches."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from casc_core.errors import ConfigError, DataError
from casc_core.storage.checksum import sha256
from casc_lab.distributed import Share
from casc_lab.evaluation import accuracy as evaluation
from casc_lab.evaluation.accuracy import Batches
from casc_lab.progress import followed
from casc_lab.training.store import Store, training_facts
from casc_seq.classifier import ClassifierConfig, TextClassifier
from casc_seq.text.batches import BucketedBatches, bucketed_batches
from casc_seq.text.data import Corpus
from casc_seq.text.tokenizer import WordTokenizer, check_count
from casc_seq.text.torchtext import TorchtextTokenizer
from casc_seq.text.torchtext_batches import bucket_iterator_batches
from casc_seq.text.vectors import corpus_vectors
from casc_seq.training import TrainingConfig, train

CALIBRATION_TEXTS = 512
EVALUATION_BATCH = 256


class Tokenizer(Protocol):
    """What turns texts into word numbers; made from the training texts."""

    @property
    def vocabulary_size(self) -> int: ...
    def encode(self, texts: Iterable[str | bytes], max_len: int = 200) -> list[list[int]]: ...
    def words(self, ids: Iterable[int]) -> list[str]: ...
    def vectors(self, path: str | Path, dim: int) -> Tensor: ...
    def save(self, folder: str | Path) -> None: ...


@dataclass(frozen=True)
class TextPipeline:
    """How texts become batches.

    Args:
        tokenizer: "words" (the `tokenizers` library) or "torchtext" (Field, Vocab and BucketIterator of torchtext 0.6,
            the paper's; extra `torchtext`).
        max_words, min_count: size of the vocabulary, and how often a word must occur to be in it.
        max_len: words of a text that are read.
        vectors: what the word vectors start from: "corpus" (`casc_seq.text.vectors`, of the training texts themselves),
            "random", or a file in GloVe's text format.

    Raises:
        ConfigError: an unknown tokenizer, or a number below 1. DataError: no such file of vectors.
    """

    tokenizer: str = "words"
    max_words: int = 50_000
    min_count: int = 2
    max_len: int = 200
    vectors: str = "corpus"

    def __post_init__(self) -> None:
        if self.tokenizer not in ("words", "torchtext"):
            raise ConfigError(f"tokenizer must be 'words' or 'torchtext'; got {self.tokenizer!r}")
        for name in ("max_words", "min_count", "max_len"):
            check_count(name, getattr(self, name))
        if self.vectors not in ("corpus", "random") and not Path(self.vectors).is_file():
            raise DataError(
                f"vectors must be 'corpus', 'random' or a file of vectors; there is no file {self.vectors!r}"
            )

    def tokenizer_type(self) -> Any:
        """The class of the tokenizer."""
        return WordTokenizer if self.tokenizer == "words" else TorchtextTokenizer

    def initial_vectors(self, tokenizer: Tokenizer, encoded: list[list[int]], dim: int) -> Tensor | None:
        """Word vectors `[vocabulary, dim]` to start from; None: random ones."""
        if self.vectors == "random":
            return None
        if self.vectors == "corpus":
            return corpus_vectors(encoded, tokenizer.vocabulary_size, dim)
        return tokenizer.vectors(self.vectors, dim)

    def batches(self) -> Callable[..., BucketedBatches]:
        """What makes batches of texts of similar length."""
        return bucketed_batches if self.tokenizer == "words" else bucket_iterator_batches


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier, its tokenizer, and how it came about.

    Attributes:
        found: whether it had been trained before, with the same configuration on the same data.
        training: validation accuracy of the best epoch, epochs, parameters and seconds of training.
        folder: name of the folder that holds it.
    """

    model: nn.Module
    tokenizer: Tokenizer
    found: bool
    training: dict[str, Any]
    folder: str


def train_or_find(
    corpus: Corpus,
    folder: Path,
    pipeline: TextPipeline,
    sizes: dict[str, Any],
    training: TrainingConfig,
    *,
    device: str | torch.device = "cpu",
    retrain: bool = False,
    find_only: bool = False,
    progress: bool = True,
) -> TrainedClassifier:
    """The classifier trained so on these texts: read from `folder` if it is there, else trained and saved there.

    Args:
        corpus: only its training texts are looked at.
        folder: a trained classifier has a subfolder of its own, named by a fingerprint of configuration and data.
        pipeline, training: how.
        sizes: arguments of `ClassifierConfig`, but the vocabulary and the classes.
        device: where it trains.
        retrain: train anew even if one is there.
        find_only: never train.

    Raises:
        ConfigError: an argument out of range. StorageError: the folder cannot be used.
    """
    store = Store(folder, fingerprint(corpus, pipeline, sizes, training), retrain, find_only)
    if store.found:
        model, description = store.read(lambda found: TextClassifier(ClassifierConfig(**found["classifier"])))
        tokenizer = pipeline.tokenizer_type().load(store.home / "tokenizer")
        return TrainedClassifier(model.to(device).eval(), tokenizer, True, description["training"], store.home.name)
    tokenizer = pipeline.tokenizer_type().train(corpus.train.texts, pipeline.max_words, pipeline.min_count)
    config = ClassifierConfig(vocabulary_size=tokenizer.vocabulary_size, classes=len(corpus.classes), **sizes)
    encoded = tokenizer.encode(corpus.train.texts, pipeline.max_len)
    torch.manual_seed(training.seed)
    model = TextClassifier(config, pipeline.initial_vectors(tokenizer, encoded, config.embedding_size)).to(device)
    result = train(
        model,
        encoded,
        corpus.train.labels,
        training,
        checkpoint=store.checkpoint,
        progress=progress,
        batches=pipeline.batches(),
    )
    facts = training_facts(model, result)
    description = {"classifier": dataclasses.asdict(config), "training": facts, "classes": list(corpus.classes)}
    store.write(model, description, lambda place: tokenizer.save(place / "tokenizer"))
    return TrainedClassifier(model.eval(), tokenizer, False, facts, store.home.name)


def fingerprint(corpus: Corpus, pipeline: TextPipeline, sizes: dict[str, Any], training: TrainingConfig) -> str:
    """Short name of a training: it differs where the configuration or the training texts do."""
    settings = [dataclasses.asdict(pipeline), sizes, dataclasses.asdict(training), list(corpus.classes)]
    rows = zip(corpus.train.texts, corpus.train.labels, strict=True)
    texts = (f"{label}\t{len(text)}\t{text}\n" for text, label in rows)
    parts = itertools.chain([json.dumps(settings, sort_keys=True)], texts)
    return sha256(part.encode() for part in parts)[:12]


def evaluation_batches(
    corpus: Corpus,
    trained: TrainedClassifier,
    pipeline: TextPipeline,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Batches:
    """The test set, as `casc_lab.evaluation.accuracy` reads it; the inputs are tokens and lengths."""
    encoded = trained.tokenizer.encode(corpus.test.texts, pipeline.max_len)
    batches = pipeline.batches()(encoded, corpus.test.labels, EVALUATION_BATCH)

    def of(share: Share) -> Iterator[evaluation.Batch]:
        mine = batches.shared(share)
        count = len(share.of(range(len(batches))))
        for batch in followed(mine, count, shown=progress and share.rank == 0):
            inputs = batch.tokens.to(device), batch.lengths.to(device)
            yield evaluation.Batch(inputs, batch.labels, batch.index)

    return of


def calibration_batches(
    corpus: Corpus, trained: TrainedClassifier, pipeline: TextPipeline, device: str | torch.device = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and lengths of some training texts, spread over all of them, in one batch."""
    some = range(0, len(corpus.train), max(1, len(corpus.train) // CALIBRATION_TEXTS))
    encoded = trained.tokenizer.encode([corpus.train.texts[i] for i in some], pipeline.max_len)
    labels = [corpus.train.labels[i] for i in some]
    for batch in pipeline.batches()(encoded, labels, len(encoded)):
        yield batch.tokens.to(device), batch.lengths.to(device)
