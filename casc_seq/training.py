"""Training of text classifiers: repeatable, resumable to the bit, its best epoch picked on texts set aside."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.errors import InputError
from casc_core.reporting.summaries import Summarised
from casc_core.storage.checksum import sha256
from casc_lab.distributed import Share, device_of
from casc_lab.evaluation.accuracy import accuracy
from casc_lab.progress import followed
from casc_lab.training import loop as training
from casc_lab.training.checkpoint import save_checkpoint
from casc_lab.training.checks import check_numbers
from casc_lab.training.classification import learning_rate_share, loss_and_correct, remedy, set_learning_rate, shapes
from casc_lab.training.loop import EpochResult, TrainingResult
from casc_lab.training.task import Epoch, Validation
from casc_seq.text.batches import Batch, BucketedBatches, bucketed_batches
from casc_seq.text.tokenizer import PAD, UNKNOWN

__all__ = [
    "EpochResult",
    "Evaluation",
    "TrainingConfig",
    "TrainingResult",
    "evaluate",
    "recommended",
    "split_validation",
    "train",
]

_EVALUATION_BATCH = 256
MakeBatches = Callable[..., BucketedBatches]


@dataclass(frozen=True)
class TrainingConfig:
    """How `train` trains.

    Args:
        epochs: passes over the training texts.
        batch_size: texts in a batch.
        lr: largest learning rate. It rises linearly over the `warm_up` share of all steps and falls linearly to 0.
        embedding_lr: that of word vectors, as a multiple of `lr`.
        warm_up: share of the steps, in [0, 1).
        weight_decay: of AdamW (Loshchilov and Hutter 2019).
        clip: largest norm of the gradient of all parameters but the word vectors; what is longer is scaled down to it.
        label_smoothing: share of the target that is spread over all classes.
        word_dropout: share of the words that each batch reads as unknown. It teaches the network to use all of a text,
            and what an unknown word means.
        validation: share of the texts, of each class, that is set aside to pick the best epoch; 0 keeps the last one.
        seed: of the validation split, the order of the texts, and every dropout.

    Raises:
        ConfigError: a value out of its range.

    >>> TrainingConfig(epochs=3).epochs
    3
    """

    epochs: int = 5
    batch_size: int = 128
    lr: float = 4e-3
    embedding_lr: float = 0.25
    warm_up: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    label_smoothing: float = 0.1
    word_dropout: float = 0.3
    validation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            self,
            counts=("epochs", "batch_size"),
            positive=("lr", "clip"),
            not_negative=("embedding_lr", "weight_decay"),
            shares=("warm_up", "label_smoothing", "word_dropout", "validation"),
        )


SMALL_CORPUS = 20_000


def recommended(texts: int) -> TrainingConfig:
    """The configuration for this many training texts: a small corpus takes more epochs, smaller batches, every word.

    >>> recommended(100_000).epochs, recommended(6_000).epochs
    (5, 10)
    """
    return TrainingConfig() if texts >= SMALL_CORPUS else TrainingConfig(epochs=10, batch_size=64, word_dropout=0.0)


@dataclass(frozen=True, repr=False)
class Evaluation(Summarised):
    """Answers of a model in the order of the data set: `logits` `[N, classes]`, `accuracy` in percent, mean `loss`."""

    logits: Tensor
    accuracy: float
    loss: float


def evaluate(model: nn.Module, batches: Iterable[Batch], progress: bool = False) -> Evaluation:
    """Logits and accuracy of `model` on all of `batches`, in evaluation mode; the model is left in the mode it was in.

    Args:
        model: called as `model(tokens, lengths)`.
        batches: as `casc_seq.text.batches.bucketed_batches` makes them.
        progress: show on stderr how far it has come.

    Raises:
        InputError: no batches.
    """
    was_training, device = model.training, device_of(model)
    model.eval()
    logits, labels, index = [], [], []
    try:
        with torch.no_grad():
            for batch in followed(batches, name="evaluating", shown=progress):
                logits.append(model(batch.tokens.to(device), batch.lengths.to(device)).cpu())
                labels.append(batch.labels)
                index.append(batch.index)
    finally:
        model.train(was_training)
    if not logits:
        raise InputError("there are no texts to evaluate")
    order = torch.argsort(torch.cat(index))
    answers, expected = torch.cat(logits)[order], torch.cat(labels)[order]
    return Evaluation(answers, accuracy(answers, expected), F.cross_entropy(answers.double(), expected).item())


def split_validation(labels: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions of the texts to train on and of those set aside: `share` of each class, drawn by `seed`, both sorted.

    A class keeps at least one text to train on; with a `share` above 0, one of two or more texts is set aside.

    >>> training, validation = split_validation([0] * 10 + [1] * 20, share=0.1, seed=0)
    >>> len(training), len(validation), sum(position >= 10 for position in validation)
    (27, 3, 2)
    """
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(labels)
    aside: list[int] = []
    for label in targets.unique().tolist():
        members = (targets == label).nonzero().flatten()
        count = min(max(round(share * len(members)), int(share > 0)), len(members) - 1)
        aside += members[torch.randperm(len(members), generator=generator)[:count]].tolist()
    chosen = set(aside)
    return [position for position in range(len(labels)) if position not in chosen], sorted(aside)


def train(
    model: nn.Module,
    encoded: Sequence[Sequence[int]],
    labels: Sequence[int],
    config: TrainingConfig | None = None,
    *,
    checkpoint: str | Path | None = None,
    save_seconds: float = 30.0,
    save_steps: int | None = None,
    progress: bool = True,
    batches: MakeBatches = bucketed_batches,
    precision: str = "float32",
) -> TrainingResult:
    """Train `model` in place with AdamW; it ends with the weights of its best epoch, in evaluation mode.

    The same seed, initial weights, texts and number of threads give the same weights on one machine. With `checkpoint`,
    a training that was killed at any moment goes on where it was when called again with the same arguments, and ends
    with the weights it would have had; one that had ended is not repeated.

    Args:
        model: called as `model(tokens, lengths)`, gives logits; see `casc_seq.classifier.TextClassifier`.
        encoded: word numbers of each training text.
        labels: class of each text, from 0.
        config: how; all defaults if None.
        checkpoint: file for the state of the training, written whole or not at all.
        save_seconds: how often, at least; after each epoch in any case.
        save_steps: also each time that this many steps have been made.
        progress: show on stderr how far it has come.
        batches: what makes batches, called as `bucketed_batches` is.
        precision: as `casc_lab.training.loop.train` takes it.

    Raises:
        ConfigError: an unknown precision, or the loss is no longer a finite number; the message says what to change.
        InputError: no texts, not one label per text, or no text left to train on.
        StorageError: the checkpoint cannot be written, is damaged, or belongs to another training.

    >>> from casc_seq.classifier import ClassifierConfig, TextClassifier
    >>> encoded, labels = [[2, 3], [4, 5], [2, 5], [4, 3]] * 8, [0, 1, 0, 1] * 8
    >>> _ = torch.manual_seed(0)
    >>> model = TextClassifier(ClassifierConfig(vocabulary_size=6, classes=2))
    >>> config = TrainingConfig(epochs=10, batch_size=8, lr=0.01, word_dropout=0.0)
    >>> train(model, encoded, labels, config, progress=False).best.validation_accuracy
    100.0
    """
    config = config or TrainingConfig()
    if len(labels) != len(encoded):
        raise InputError(f"expected one label for each of {len(encoded)} texts; got {len(labels)} labels")
    if len(encoded) == 0:
        raise InputError("there are no texts to train on")
    return training.train(
        model,
        _TextTask(model, encoded, labels, config, batches),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        save=save_checkpoint,
        save_seconds=save_seconds,
        save_steps=save_steps,
        progress=progress,
        precision=precision,
    )


class _TextTask:
    """Classes of texts, learnt with AdamW."""

    def __init__(
        self,
        model: nn.Module,
        encoded: Sequence[Sequence[int]],
        labels: Sequence[int],
        config: TrainingConfig,
        make_batches: MakeBatches,
    ) -> None:
        self.config, self.make_batches, self.device = config, make_batches, device_of(model)
        kept, aside = split_validation(labels, config.validation, config.seed)
        self.texts, self.labels = [encoded[i] for i in kept], [labels[i] for i in kept]
        self.validation = (
            bucketed_batches([encoded[i] for i in aside], [labels[i] for i in aside], _EVALUATION_BATCH)
            if aside
            else None
        )
        self.epochs, self.seed = config.epochs, config.seed
        self.owner = _fingerprint(model, encoded, labels, config)
        self.remedy = remedy(config.lr, config.clip)
        vectors = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
        trained = [p for p in model.parameters() if p.requires_grad]
        self.vectors = [p for p in trained if id(p) in vectors]
        self.others = [p for p in trained if id(p) not in vectors]

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = [
            {"params": self.vectors, "factor": self.config.embedding_lr},
            {"params": self.others, "factor": 1.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def before_step(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
        set_learning_rate(optimiser, self.config.lr, learning_rate_share(step, steps, self.config.warm_up, "linear"))
        nn.utils.clip_grad_norm_(self.others, self.config.clip)

    def epoch(self, number: int, start: int, share: Share) -> Epoch[Batch]:
        # Each epoch has its own order, and no two seeds share one.
        order = self.seed * 1_000_003 + number
        batches = self.make_batches(self.texts, self.labels, self.config.batch_size, seed=order % 2**63)
        return Epoch(len(batches), batches.parts(share, start))

    def loss(self, network: Callable[..., Any], batch: Batch) -> tuple[Tensor, Tensor]:
        tokens = batch.tokens.to(self.device)
        if self.config.word_dropout:
            # Drawn on the CPU, so that it does not depend on the device.
            unread = (torch.rand(batch.tokens.shape) < self.config.word_dropout).to(self.device)
            tokens = torch.where(unread & (tokens != PAD), UNKNOWN, tokens)
        labels = batch.labels.to(self.device)
        logits = network(tokens, batch.lengths.to(self.device))
        return loss_and_correct(logits, labels, self.config.label_smoothing)

    def validate(self, model: nn.Module) -> Validation | None:
        if self.validation is None:
            return None
        answers = evaluate(model, self.validation)
        return Validation(answers.accuracy, answers.loss)


def _fingerprint(
    model: nn.Module, encoded: Sequence[Sequence[int]], labels: Sequence[int], config: TrainingConfig
) -> str:
    """Names a training by its options, the sizes of its model, and its data."""
    parts = itertools.chain([[dataclasses.asdict(config), shapes(model), list(labels)]], map(list, encoded))
    return sha256(json.dumps(part).encode() for part in parts)
