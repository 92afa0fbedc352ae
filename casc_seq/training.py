"""Training of text classifiers: repeatable, resumable to the bit, its best epoch picked on texts set aside."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from casc_core.errors import ConfigError, InputError
from casc_core.experiment.checkpoint import load_checkpoint, save_checkpoint
from casc_seq.batches import Batch, BucketedBatches, bucketed_batches
from casc_seq.text import PAD, UNKNOWN

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
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an integer of at least 1; got {value!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be an integer from 0 to 2**63 - 1; got {self.seed!r}")
        for name in ("lr", "clip"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be positive and finite; got {getattr(self, name)!r}")
        for name in ("embedding_lr", "weight_decay"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0 and finite; got {getattr(self, name)!r}")
        for name in ("warm_up", "label_smoothing", "word_dropout", "validation"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in [0, 1); got {getattr(self, name)!r}")


SMALL_CORPUS = 20_000


def recommended(texts: int) -> TrainingConfig:
    """The configuration for so many training texts: a small corpus takes more epochs, smaller batches, every word.

    >>> recommended(100_000).epochs, recommended(6_000).epochs
    (5, 10)
    """
    return TrainingConfig() if texts >= SMALL_CORPUS else TrainingConfig(epochs=10, batch_size=64, word_dropout=0.0)


@dataclass(frozen=True)
class EpochResult:
    """One epoch: its training loss and accuracy (with dropout) and those of the validation texts, in percent."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class TrainingResult:
    """What `train` did.

    Attributes:
        epochs: every epoch in turn.
        best: the epoch whose weights the model has now.
        seconds: time spent, interruptions not counted.
    """

    epochs: tuple[EpochResult, ...]
    best: EpochResult
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Answers of a model in the order of the data set: `logits` `[N, classes]`, `accuracy` in percent, mean `loss`."""

    logits: Tensor
    accuracy: float
    loss: float


def evaluate(model: nn.Module, batches: Iterable[Batch], progress: bool = False) -> Evaluation:
    """Logits and accuracy of `model` on all of `batches`, in evaluation mode; the model is left in the mode it was in.

    Args:
        model: called as `model(tokens, lengths)`.
        batches: as `casc_seq.batches.bucketed_batches` makes them.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no batches.
    """
    was_training, device = model.training, _device(model)
    model.eval()
    logits, labels, index = [], [], []
    try:
        with torch.no_grad():
            for batch in tqdm(batches, desc="evaluating", disable=not progress, leave=False):
                logits.append(model(batch.tokens.to(device), batch.lengths.to(device)).cpu())
                labels.append(batch.labels)
                index.append(batch.index)
    finally:
        model.train(was_training)
    if not logits:
        raise InputError("there are no texts to evaluate")
    order = torch.argsort(torch.cat(index))
    answers, expected = torch.cat(logits)[order], torch.cat(labels)[order]
    accuracy = 100.0 * (answers.argmax(1) == expected).double().mean().item()
    return Evaluation(answers, accuracy, F.cross_entropy(answers.double(), expected).item())


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
        save_steps: also after every so many steps.
        progress: show progress bars on stderr.
        batches: what makes batches, called as `bucketed_batches` is.

    Raises:
        ConfigError: the loss is no longer a finite number; the message says what to change.
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
    run = _Run(model, encoded, labels, config, batches)
    path = None if checkpoint is None else Path(checkpoint)
    with _seeded(config.seed, _device(model)):
        if path is not None:
            saved = load_checkpoint(path, run.owner)
            if saved is not None:
                run.restore(*saved)
        run.go_on(path, save_seconds, save_steps, progress)
    return run.result()


class _Run:
    """A training and all of its state: what `state` leaves out, `restore` cannot bring back."""

    def __init__(
        self,
        model: nn.Module,
        encoded: Sequence[Sequence[int]],
        labels: Sequence[int],
        config: TrainingConfig,
        make_batches: MakeBatches,
    ) -> None:
        self.model, self.config, self.device = model, config, _device(model)
        self.make_batches = make_batches
        training, aside = split_validation(labels, config.validation, config.seed)
        self.texts, self.labels = [encoded[i] for i in training], [labels[i] for i in training]
        self.validation = (
            bucketed_batches([encoded[i] for i in aside], [labels[i] for i in aside], _EVALUATION_BATCH)
            if aside
            else None
        )
        self.owner = _fingerprint(model, encoded, labels, config)
        vectors = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
        trained = [p for p in model.parameters() if p.requires_grad]
        self.others = [p for p in trained if id(p) not in vectors]
        groups = [
            {"params": [p for p in trained if id(p) in vectors], "factor": config.embedding_lr},
            {"params": self.others, "factor": 1.0},
        ]
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.epoch = self.batch = 0
        self.loss_sum, self.correct, self.seen = 0.0, 0, 0
        self.history: list[EpochResult] = []
        self.best: EpochResult | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0

    def go_on(self, path: Path | None, save_seconds: float, save_steps: int | None, progress: bool) -> None:
        """Train from where the state is to the end, saving the state in `path`."""
        started = saved = time.monotonic()
        before = self.seconds
        while self.epoch < self.config.epochs:
            for _ in self._steps(progress):
                now = time.monotonic()
                self.seconds = before + now - started
                due = save_steps is not None and self.batch % save_steps == 0
                if path is not None and (due or now - saved >= save_seconds):
                    save_checkpoint(path, self.owner, *self.state())
                    saved = time.monotonic()
            self._end_epoch()
            self.seconds = before + time.monotonic() - started
            if path is not None:
                save_checkpoint(path, self.owner, *self.state())
                saved = time.monotonic()
        self.model.load_state_dict(self.best_weights)
        self.model.eval()

    def _steps(self, progress: bool) -> Iterator[None]:
        """The steps left of this epoch."""
        # Each epoch has its own order, and no two seeds share one.
        order = self.config.seed * 1_000_003 + self.epoch
        batches = self.make_batches(self.texts, self.labels, self.config.batch_size, seed=order % 2**63)
        self.model.train()
        bar = tqdm(
            total=len(batches),
            initial=self.batch,
            desc=f"epoch {self.epoch + 1}/{self.config.epochs}",
            unit="batch",
            disable=not progress,
        )
        with bar:
            for batch in itertools.islice(batches, self.batch, None):
                self._step(batch, len(batches))
                bar.set_postfix(loss=f"{self.loss_sum / self.seen:.3f}", refresh=False)
                bar.update()
                yield
            if progress and self.validation is not None:
                bar.set_postfix_str("validating")

    def _step(self, batch: Batch, steps_per_epoch: int) -> None:
        config = self.config
        self._set_lr(self.epoch * steps_per_epoch + self.batch, config.epochs * steps_per_epoch)
        tokens = batch.tokens.to(self.device)
        if config.word_dropout:
            # Drawn on the CPU, so that it does not depend on the device.
            unread = (torch.rand(batch.tokens.shape) < config.word_dropout).to(self.device)
            tokens = torch.where(unread & (tokens != PAD), UNKNOWN, tokens)
        labels = batch.labels.to(self.device)
        logits = self.model(tokens, batch.lengths.to(self.device))
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise ConfigError(
                f"the loss became {value} in epoch {self.epoch + 1}, batch {self.batch + 1}; "
                f"lower lr (now {config.lr:g}) or clip (now {config.clip:g}), or check the initial weights"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.others, config.clip)
        self.optimiser.step()
        self.batch += 1
        self.loss_sum += value * len(labels)
        self.correct += int((logits.argmax(1) == labels).sum())
        self.seen += len(labels)

    def _set_lr(self, step: int, steps: int) -> None:
        warm = max(1, round(self.config.warm_up * steps))
        share = min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * group["factor"] * share

    def _end_epoch(self) -> None:
        """Validate, keep the weights if they are the best yet, and move to the next epoch."""
        if self.validation is None:
            accuracy = loss = math.nan
        else:
            answers = evaluate(self.model, self.validation)
            accuracy, loss = answers.accuracy, answers.loss
        result = EpochResult(
            self.epoch + 1, self.loss_sum / self.seen, 100.0 * self.correct / self.seen, loss, accuracy
        )
        self.history.append(result)
        if self.validation is None or self.best is None or accuracy > self.best.validation_accuracy:
            self.best = result
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum, self.correct, self.seen = 0.0, 0, 0

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything the rest of the training depends on: `(facts, tensors)`."""
        facts = {
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seen": self.seen,
            "history": [dataclasses.asdict(result) for result in self.history],
            "best": None if self.best is None else self.best.epoch,
            "seconds": self.seconds,
        }
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        for number, parameter in enumerate(self._optimised()):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{number}.{name}"] = value
        return facts, tensors

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Bring back what `state` returned."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "random": {}, "optimiser": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.best_weights = parts["best"]
        parameters = self._optimised()
        for name, tensor in parts["optimiser"].items():
            number, _, key = name.partition(".")
            self.optimiser.state[parameters[int(number)]][key] = tensor.to(self.device)
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"]:
            torch.cuda.set_rng_state(parts["random"]["cuda"], self.device)
        self.epoch, self.batch = facts["epoch"], facts["batch"]
        self.loss_sum, self.correct, self.seen = facts["loss_sum"], facts["correct"], facts["seen"]
        self.history = [EpochResult(**result) for result in facts["history"]]
        self.best = None if facts["best"] is None else self.history[facts["best"] - 1]
        self.seconds = facts["seconds"]

    def _optimised(self) -> list[Tensor]:
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def result(self) -> TrainingResult:
        assert self.best is not None
        return TrainingResult(tuple(self.history), self.best, self.seconds)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` within the block; afterwards, the caller's go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _fingerprint(
    model: nn.Module, encoded: Sequence[Sequence[int]], labels: Sequence[int], config: TrainingConfig
) -> str:
    """Names a training by its options, the sizes of its model, and its data."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    digest = hashlib.sha256(json.dumps([dataclasses.asdict(config), shapes, list(labels)]).encode())
    for tokens in encoded:
        digest.update(json.dumps(list(tokens)).encode())
    return digest.hexdigest()
